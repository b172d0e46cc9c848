"""Crowds of connections that want nothing, of loopback's other addresses."""

import asyncio
import resource
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from kmm_common.tls import client_context
from support.servedalone import ServedAlone

CROWD = 10_000
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
    refused: int
    """Lines that it may leave in the log: one for each host and reason."""


CROWDS = {
    "silent, one host": Crowd(refused=2),
    "silent, many hosts": Crowd(hosts=CROWD // PER_HOST, refused=CROWD // PER_HOST),
    "half a handshake": Crowd(said=HALF_A_HELLO, refused=2),
    "no certificate": Crowd(tls=True, refused=2),
    "one certificate": Crowd(tls=True, certificate=True, refused=1),
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


@contextmanager
def many_files() -> Iterator[None]:
    """Let this process, and what it starts, have as many connections as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
