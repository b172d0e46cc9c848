"""A setting that is wrong ends kmm-cp with its name, and without a traceback."""

import asyncio
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmm_common.api.names import Reason
from support.fleet import Fleet, eventually
from support.kmmcp import KmmCp
from support.simkernel import failure


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"listen": "8443"}, "listen"),
        ({"namespace": "Not_A_Name"}, "namespace"),
        ({"tolerated_failures": "many"}, "tolerated_failures"),
        ({"no_such": 1}, "no_such: there is no such setting; remove it or correct its name"),
        ({"tls": None}, "tls"),
        ({"disconnected_seconds": 0}, "disconnected_seconds"),
        ({"log_format": "xml"}, "log_format"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_setting_ends_kmm_cp_with_code_2_and_its_name(
    control_plane: KmmCp, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    ended = _run(tmp_path, {**control_plane.settings, **changes})
    assert ended.returncode == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kubeconfig": "/no/such/kubeconfig"}, "/no/such/kubeconfig"),
        (
            {"tls": {"cert": "/no/such/cert", "key": "/no/such/key", "ca": "/no/such/ca"}},
            "/no/such/",
        ),
    ],
    ids=["kubeconfig", "certificate"],
)
def test_file_that_is_missing_ends_kmm_cp_with_code_1_and_its_name(
    control_plane: KmmCp, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    free = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0"}
    ended = _run(tmp_path, {**control_plane.settings, **free, **changes})
    assert ended.returncode == 1
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_port_that_is_taken_ends_kmm_cp_with_code_1_and_says_so(
    control_plane: KmmCp, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"metrics_listen": "127.0.0.1:0", "listen": f"127.0.0.1:{taken.getsockname()[1]}"}
        ended = _run(tmp_path, {**control_plane.settings, **ports})
    assert ended.returncode == 1
    assert "address already in use" in ended.stderr


async def test_changed_setting_is_taken_without_a_restart_and_a_wrong_one_changes_nothing(
    fleet: Fleet,
) -> None:
    good, bad = await fleet.node("a"), await fleet.node("b")
    control_plane, before = fleet.control_plane, fleet.control_plane.configuration.read_text()
    bad.kernel.failing[fleet.ref()] = deque([failure(Reason.DEVICE_ERROR, "none", retry=False)])
    await fleet.apply()
    await fleet.condition("Stalled", reason="NodesFailed")
    try:
        await asyncio.to_thread(control_plane.configure, tolerated_failures="1", listen=":1")
        await fleet.condition("Ready", reason="ToleratedFailures")
        assert control_plane.told("settings wait for a restart", settings=["listen"])
        await asyncio.to_thread(control_plane.configure, tolerated_failures="many")
        await metric(control_plane, "kmm_cp_config_last_reload_successful 0.0")
        [told] = control_plane.told("settings not taken, the old ones hold")
        assert "tolerated_failures" in told["error"]
        await fleet.reconciled()
        await fleet.condition("Ready", reason="ToleratedFailures")
    finally:
        control_plane.configuration.write_text(before)
    await metric(control_plane, "kmm_cp_config_last_reload_successful 1.0")
    await fleet.condition("Stalled", reason="NodesFailed")
    assert good.kernel.loads(fleet.ref()) == 1


async def metric(control_plane: KmmCp, line: str) -> None:
    """Wait until kmm-cp tells a metric."""
    await eventually(
        lambda: asyncio.to_thread(control_plane.metrics),
        lambda text: line in text.splitlines(),
        what=line,
    )


def _run(directory: Path, settings: Mapping[str, Any]) -> "subprocess.CompletedProcess[str]":
    config = directory / "kmm-cp.yaml"
    config.write_text(yaml.safe_dump(dict(settings)))
    argv = [sys.executable, "-m", "kmm_cp.cli", "--config", str(config)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
