"""The port that Prometheus and the kubelet ask, on loopback."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from prometheus_client import CONTENT_TYPE_LATEST

from kmm_common.listening import CannotListenError
from kmm_common.monitoring import MonitoringServer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def serving(ready: Callable[[], bool]) -> AsyncIterator[str]:
    address = f"127.0.0.1:{free_port()}"
    server = MonitoringServer(address, exposition=lambda: b"kmm_module_num 1.0\n", ready=ready)
    await server.start()
    try:
        yield f"http://{address}"
    finally:
        await server.stop()


async def ask(url: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text(), answer.headers["Content-Type"]


async def test_metrics_are_served_as_prometheus_reads_them() -> None:
    async with serving(lambda: False) as url:
        status, text, kind = await ask(f"{url}/metrics")
    assert (status, text) == (200, "kmm_module_num 1.0\n")
    assert kind == CONTENT_TYPE_LATEST


@pytest.mark.parametrize(
    ("path", "ready", "status"),
    [("healthz", False, 200), ("readyz", False, 503), ("readyz", True, 200), ("other", True, 404)],
)
async def test_program_is_alive_before_it_is_ready(path: str, ready: bool, status: int) -> None:
    async with serving(lambda: ready) as url:
        assert (await ask(f"{url}/{path}"))[0] == status


async def test_port_that_is_taken_is_told_by_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = MonitoringServer(address, exposition=bytes)
        with pytest.raises(CannotListenError, match=rf"^metrics_listen {address}: .*in use"):
            await server.start()
