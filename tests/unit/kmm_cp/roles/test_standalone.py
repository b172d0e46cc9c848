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
from kmm_common.listening import host_and_port
from kmm_common.reload import SettingsFile
from kmm_cp.roles import standalone
from kmm_cp.settings import load
from kmm_sandbox.ports import KeptPorts
from support.certificates import Certificates
from support.fleet import eventually

PATIENT = 20.0


def kubeconfig(directory: Path, server: str) -> Path:
    """Write one of a server by its host:port."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": f"http://{server}"}}],
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
async def started(
    directory: Path, settings: dict[str, Any], *, server: str
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a control plane, until the end of the block at the latest."""
    config = directory / "kmm-cp.yaml"
    login = str(kubeconfig(directory, server))
    config.write_text(yaml.safe_dump({"kubeconfig": login, **settings}))
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
    with KeptPorts() as ports:
        listens = {"metrics_listen": ports.address(), "listen": ports.address()}
        given = {**settings(tmp_path), **listens}
        probes = f"{scheme}://{listens['metrics_listen']}"
        async with started(tmp_path, given, server=ports.address()) as running:
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
        for address in listens.values():
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*host_and_port(address))
