"""Thousands of connections that want nothing: memory stays bounded, and a daemon is served."""

import asyncio
import resource
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kmm_common.tls import client_context
from support.desired import desired
from support.link import Holder, linked
from support.servedalone import ServedAlone, served_alone
from support.serving import until

MIB = 2**20
CROWD = 10_000
CROWD_WITH_TLS = 2_000
"""Both sides of it have to calculate."""
GROWTH_BYTES = 64 * MIB
AT_ONCE = 100
PER_HOST = 200
"""Less than what is hung up on at once."""
HALF_A_HELLO = b"\x16\x03\x01\x02\x00\x01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """What each of it does, and from how many hosts it comes."""

    said: bytes = b""
    tls: bool = False
    certificate: bool = False
    hosts: int = 1
    number: int = CROWD
    refused: int
    """Lines that it may leave in the log: one for each host and reason."""


CROWDS = {
    "silent, one host": Crowd(refused=2),
    "silent, many hosts": Crowd(hosts=CROWD // PER_HOST, refused=CROWD // PER_HOST),
    "half a handshake": Crowd(said=HALF_A_HELLO, refused=2),
    "no certificate": Crowd(tls=True, number=CROWD_WITH_TLS, refused=2),
    "one certificate": Crowd(tls=True, certificate=True, number=CROWD_WITH_TLS, refused=1),
}


@asynccontextmanager
async def gathered(served: ServedAlone, crowd: Crowd, number: int) -> AsyncIterator[None]:
    """Have so many connections made from loopback's other addresses; most may be ended again."""
    gate, context = asyncio.Semaphore(AT_ONCE), _context(served, crowd) if crowd.tls else None

    async def connect(index: int) -> asyncio.StreamWriter | None:
        async with gate:
            try:
                _, writer = await asyncio.open_connection(
                    "127.0.0.1",
                    served.port,
                    ssl=context,
                    server_hostname="localhost" if context else None,
                    local_addr=(f"127.0.1.{index % crowd.hosts + 1}", 0),
                )
                writer.write(crowd.said)
            except OSError:
                return None
            return writer

    made = await asyncio.gather(*map(connect, range(number)))
    try:
        yield
    finally:
        for writer in made:
            if writer is not None:
                writer.transport.abort()


def _context(served: ServedAlone, crowd: Crowd) -> ssl.SSLContext:
    if crowd.certificate:
        return client_context(served.files)
    context = ssl.create_default_context(cafile=str(served.files.ca))
    context.set_alpn_protocols(["h2"])
    return context


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process, and what it starts, have as many connections as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("crowd", CROWDS.values(), ids=CROWDS)
async def test_crowd_costs_little_is_told_of_little_and_keeps_no_daemon_out(
    tmp_path: Path, crowd: Crowd
) -> None:
    async with served_alone(tmp_path) as served:
        async with gathered(served, crowd, 10):
            before = served.resident_bytes()
        async with gathered(served, crowd, crowd.number):
            grown = served.resident_bytes() - before
            assert grown <= GROWTH_BYTES, f"{grown / MIB:.0f} MiB for {crowd.number} connections"
            holder = Holder()
            async with linked(served.port, served.files, holder):
                await until(lambda: holder.holds(1, desired("one")))
        assert served.lines("peer refused") <= crowd.refused
