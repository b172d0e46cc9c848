"""Thousands of connections that want nothing: memory stays bounded, and a daemon is served."""

import asyncio
import resource
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kmm_common.tls import client_context
from support.desired import desired
from support.link import Holder, linked
from support.servedalone import ServedAlone, served_alone
from support.serving import until

MIB = 2**20
SILENT, IDLE = 4000, 500
GROWTH_BYTES = 64 * MIB
AT_ONCE = 50


@asynccontextmanager
async def crowd(
    served: ServedAlone, number: int, context: ssl.SSLContext | None
) -> AsyncIterator[None]:
    """Hold so many connections, with TLS or without, and say nothing on them."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def connect() -> asyncio.StreamWriter:
        async with gate:
            name = "localhost" if context else None
            _, writer = await asyncio.open_connection(
                "127.0.0.1", served.port, ssl=context, server_hostname=name
            )
            return writer

    writers = await asyncio.gather(*(connect() for _ in range(number)))
    try:
        yield
    finally:
        for writer in writers:
            writer.transport.abort()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process, and what it starts, have as many connections as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize(("number", "tls"), [(SILENT, False), (IDLE, True)], ids=["tcp", "tls"])
async def test_crowd_that_says_nothing_costs_little_and_keeps_no_daemon_out(
    tmp_path: Path, number: int, tls: bool
) -> None:
    async with served_alone(tmp_path) as served:
        context = client_context(served.files)
        async with crowd(served, 10, context if tls else None):
            before = served.resident_bytes()
        async with crowd(served, number, context if tls else None):
            grown = served.resident_bytes() - before
            assert grown <= GROWTH_BYTES, f"{grown / MIB:.0f} MiB for {number} connections"
            holder = Holder()
            async with linked(served.port, served.files, holder):
                await until(lambda: holder.holds(1, desired("one")))
