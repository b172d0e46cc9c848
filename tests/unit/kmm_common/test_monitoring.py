"""The port that Prometheus and the kubelet ask, on loopback."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from prometheus_client import CONTENT_TYPE_LATEST

from kmm_common import monitoring
from kmm_common.listening import CannotListenError
from kmm_common.monitoring import MOST_CONNECTIONS, MonitoringServer
from kmm_sandbox.ports import KeptPorts


@asynccontextmanager
async def serving(ready: Callable[[], bool]) -> AsyncIterator[str]:
    with KeptPorts() as ports:
        address = ports.address()
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


async def exchange(url: str, sent: bytes) -> bytes:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    try:
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", rb"HTTP/1\.1 200 OK\r\n.*\r\n\r\n$"),
        (b"GET /healthz?verbose HTTP/1.0\r\n\r\n", rb"HTTP/1\.1 200 OK\r\n.*\r\n\r\nok\n$"),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", rb"405 .*Allow: GET"),
        (b"\x16\x03\x01 no HTTP\r\n\r\n", rb"HTTP/1\.1 400 "),
        (b"GET /" + b"a" * 100_000, rb"HTTP/1\.1 431 |^$"),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 9999, rb"HTTP/1\.1 431 |^$"),
    ],
)
async def test_every_request_is_answered_once_and_then_hung_up_on(
    sent: bytes, answer: bytes
) -> None:
    async with serving(lambda: True) as url:
        assert re.search(answer, await exchange(url, sent), re.DOTALL)


async def test_peer_that_goes_without_a_word_is_nobodys_concern() -> None:
    async with serving(lambda: True) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        assert (await ask(f"{url}/healthz"))[0] == 200


async def test_silent_peers_are_bounded_and_end_with_the_server() -> None:
    async with serving(lambda: True) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        silent = [
            await asyncio.open_connection(host, int(port)) for _ in range(MOST_CONNECTIONS + 8)
        ]
        with pytest.raises(aiohttp.ClientError):
            await ask(f"{url}/healthz")
        for _, writer in silent[:MOST_CONNECTIONS]:
            writer.close()
        await wait_for_answer(url)
    for reader, writer in silent:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()


async def wait_for_answer(url: str) -> None:
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            await ask(f"{url}/healthz")
            return


async def test_slow_peer_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "CONNECTION_SECONDS", 0.05)
    async with serving(lambda: True) as url:
        assert await exchange(url, b"GET /healthz HTTP/1.1\r\n") == b""


async def test_page_that_breaks_is_an_error_of_ours_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> bool:
        raise ZeroDivisionError

    async with serving(broken) as url:
        assert (await ask(f"{url}/readyz"))[0] == 500
        assert (await ask(f"{url}/healthz"))[0] == 200
    assert [record.message for record in caplog.records] == ["page not served"]
