"""Accepts connections and leads each through its TLS handshake.

asyncio's own listener with TLS keeps the reason of a handshake that failed to itself.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable

from kmm_common import tls
from kmm_common.clock import Clock
from kmm_common.listening import accept
from kmm_common.wire.http2 import address_text
from kmm_cp.serving.crowd import CrowdedError, Handshakes

OnFailed = Callable[[str, OSError], None]
"""Is told the address of a peer, and why there is no TLS with it."""


class Arrivals:
    """A listener, as grpclib knows one: it can be closed, and waited for until it is."""

    def __init__(
        self,
        sockets: Iterable[socket.socket],
        context: ssl.SSLContext,
        *,
        protocol: Callable[[], asyncio.Protocol],
        on_failed: OnFailed,
        clock: Clock,
    ) -> None:
        """Accept from now on. `protocol` makes what serves a connection once TLS is up."""
        self._context = context
        self._protocol = protocol
        self._on_failed = on_failed
        self._handshakes = set[asyncio.Task[None]]()
        self._by_host = Handshakes()
        loop = asyncio.get_running_loop()
        self._accepting = {
            one: loop.create_task(accept(one, self._welcome, clock=clock), name="accept")
            for one in sockets
        }

    def close(self) -> None:
        """Close the port at once; handshakes that are not done may go on."""
        for listening, task in self._accepting.items():
            task.cancel()
            # The task would close it a turn of the loop later, with connections still coming in.
            if listening.fileno() != -1:
                asyncio.get_running_loop().remove_reader(listening)
                listening.close()

    async def wait_closed(self) -> None:
        """Give up the handshakes that are not done."""
        for task in self._handshakes:
            task.cancel()
        await asyncio.gather(*self._accepting.values(), *self._handshakes, return_exceptions=True)

    def _welcome(self, connection: socket.socket, address: tuple[str, int]) -> None:
        host, peer = address[0], address_text(address)
        try:
            self._by_host.begin(host)
        except CrowdedError as error:
            connection.close()
            self._on_failed(peer, error)
            return

        def done(task: asyncio.Task[None]) -> None:
            self._by_host.end(host)
            self._handshakes.discard(task)

        secure = self._secure(connection, peer)
        task = asyncio.get_running_loop().create_task(secure, name="handshake")
        self._handshakes.add(task)
        task.add_done_callback(done)

    async def _secure(self, connection: socket.socket, peer: str) -> None:
        try:
            await _spoken(connection)
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=tls.HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=tls.SHUTDOWN_SECONDS,
            )
        except OSError as error:
            self._on_failed(peer, error)


async def _spoken(connection: socket.socket) -> None:
    """Wait until a peer has sent something. OSError, with the connection closed, if it does not.

    What TLS needs for a connection is 70 KiB, which whoever only connects is not to have.
    """
    loop, spoken = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection, spoken.set)
    try:
        async with asyncio.timeout(tls.HANDSHAKE_SECONDS):
            await spoken.wait()
    except BaseException as error:
        loop.remove_reader(connection)
        connection.close()
        if isinstance(error, TimeoutError):
            message = f"it said nothing for longer than {tls.HANDSHAKE_SECONDS} seconds"
            raise ConnectionAbortedError(message) from error
        raise
    loop.remove_reader(connection)
