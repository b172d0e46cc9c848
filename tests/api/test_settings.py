"""A setting that is wrong ends kmm-cp with its name, and without a traceback."""

import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.kmmcp import KmmCp


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


def _run(directory: Path, settings: Mapping[str, Any]) -> "subprocess.CompletedProcess[str]":
    config = directory / "kmm-cp.yaml"
    config.write_text(yaml.safe_dump(dict(settings)))
    argv = [sys.executable, "-m", "kmm_cp.cli", "--config", str(config)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
