"""What a control plane does while its API server is away: nobody listens where it should be."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from kmm_common.clock import SystemClock
from kmm_common.reload import SettingsFile
from kmm_cp.roles import standalone
from kmm_cp.settings import load
from support.certificates import Certificates
from support.fleet import eventually
from support.kmmcp import free_port

PATIENT = 20.0


def kubeconfig(directory: Path) -> Path:
    """Write one of a server that is not there."""
    server = f"http://127.0.0.1:{free_port()}"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
    }
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return path


def serving_with_given_files(directory: Path) -> dict[str, Any]:
    files = Certificates(directory / "pki").server()
    return {"tls": {"cert": str(files.cert), "key": str(files.key), "ca": str(files.ca)}}


def enrolling(directory: Path) -> dict[str, Any]:
    tls = {name: str(directory / "tls" / name) for name in ("cert", "key", "ca")}
    return {"tls": tls, "enrolment": {"listen": "127.0.0.1:0"}}


def enrolling_and_monitored_by_tls(directory: Path) -> dict[str, Any]:
    settings = enrolling(directory)
    return {**settings, "metrics_tls": {**settings["tls"], "names": ["prometheus.test"]}}


@asynccontextmanager
async def started(directory: Path, settings: dict[str, Any]) -> AsyncIterator[asyncio.Task[None]]:
    """Run a control plane, until the end of the block at the latest."""
    config = directory / "kmm-cp.yaml"
    config.write_text(yaml.safe_dump({"kubeconfig": str(kubeconfig(directory)), **settings}))
    file = SettingsFile(config, load, clock=SystemClock())
    running = asyncio.create_task(standalone.run(file), name="control plane")
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def probed(url: str) -> int:
    """Ask as the kubelet does, which checks no certificate; 0 if nobody answers."""
    try:
        async with aiohttp.ClientSession() as session, session.get(url, ssl=False) as answer:
            return answer.status
    except OSError:
        return 0


@pytest.mark.parametrize(
    ("settings", "scheme", "waits"),
    [
        (serving_with_given_files, "http", "leases not seen"),
        (enrolling, "http", "no authority yet"),
        (enrolling_and_monitored_by_tls, "https", "no authority yet"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_who_waits_for_the_api_server_is_alive_and_not_ready_and_ends_when_told_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: Any, scheme: str, waits: str
) -> None:
    metrics, daemons = free_port(), free_port()
    ports = {"metrics_listen": f"127.0.0.1:{metrics}", "listen": f"127.0.0.1:{daemons}"}
    probes = f"{scheme}://127.0.0.1:{metrics}"
    async with started(tmp_path, {**settings(tmp_path), **ports}) as running:
        await eventually(
            lambda: asyncio.sleep(0, [each.getMessage() for each in caplog.records]),
            lambda messages: waits in messages,
            what=waits,
            seconds=PATIENT,
        )
        assert await probed(f"{probes}/healthz") == 200
        assert await probed(f"{probes}/readyz") == 503
        assert not running.done()
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(PATIENT):
            await running
    for port in metrics, daemons:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
