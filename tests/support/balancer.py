"""What a Service is to daemons: one address, behind which each connection finds some replica."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence


class Balancer:
    """Passes connections on to the ports it may choose from, in turn; the one that answers."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = list(ports)
        """A test may take some away: connections that are there stay."""
        self.port = 0
        self._turn = 0
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator["Balancer"]:
        """Listen until the body ends."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await server.wait_closed()
            while self._writers:
                await asyncio.sleep(0.01)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                await self._pass_on(reader, writer)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await self._found()
        if there is None:
            return
        back, forth = there
        ways = [
            asyncio.create_task(_copied(reader, forth), name="towards the replica"),
            asyncio.create_task(_copied(back, writer), name="towards the daemon"),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            forth.transport.abort()

    async def _found(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return a connection to a replica that listens, None if none does."""
        for _ in self.ports:
            self._turn += 1
            with contextlib.suppress(OSError):
                port = self.ports[self._turn % len(self.ports)]
                return await asyncio.open_connection("127.0.0.1", port)
        return None


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()
