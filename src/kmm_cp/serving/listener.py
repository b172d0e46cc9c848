"""The port that daemons connect to: our own listener around grpclib's server."""

import asyncio
import logging
import random
import ssl
from asyncio import BaseTransport
from typing import Any
from weakref import WeakSet

from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.protocol import H2Protocol
from grpclib.server import Server

from kmm_common import tls
from kmm_common.clock import Clock
from kmm_common.listening import host_and_port, listening_sockets
from kmm_common.logs import log
from kmm_common.tls import ServerTls
from kmm_common.wire.codec import Codec
from kmm_common.wire.http2 import BoundedProtocol, configuration
from kmm_cp.serving.arrivals import Arrivals
from kmm_cp.serving.crowd import Connections
from kmm_cp.serving.ports import Observer
from kmm_cp.serving.refused import RefusedPeers
from kmm_cp.serving.service import NodeLink
from kmm_cp.serving.sessions import Sessions

logger = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 30.0
KEEPALIVE_TIMEOUT_SECONDS = 10.0
IDLE_SECONDS = 30.0
"""A connection without a stream in two looks so far apart is closed."""
LAST_WORDS_SECONDS = 5.0


class Listener:
    """Serves a NodeLink over mutual TLS."""

    def __init__(
        self,
        address: str,
        *,
        service: NodeLink,
        sessions: Sessions,
        server_tls: ServerTls,
        observer: Observer,
        clock: Clock,
        keepalive: float = KEEPALIVE_SECONDS,
        keepalive_timeout: float = KEEPALIVE_TIMEOUT_SECONDS,
    ) -> None:
        """The address is host:port; port 0 takes any free one."""
        self._host, self._wanted = host_and_port(address)
        self._service = service
        self._sessions = sessions
        self._tls = server_tls
        self._clock = clock
        config = configuration(keepalive=keepalive, timeout=keepalive_timeout)
        self._server = _Server(service, config, RefusedPeers(observer, clock), clock)
        self.port = 0

    async def start(self) -> None:
        """Open the port. OSError if it is taken."""
        self.port = await self._server.listen(self._host, self._wanted, self._tls.context)
        log(logger, logging.INFO, "serving daemons", host=self._host, port=self.port)

    async def run(self) -> None:
        """Keep the certificates fresh and close idle connections, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tls.keep_fresh(self._clock), name="certificates")
            tasks.create_task(self._close_idle(), name="idle connections")

    async def drain(self, seconds: float) -> None:
        """Accept nobody, end the sessions spread over the time, then close what is left."""
        self._server.stop_accepting()
        self._service.close()
        sessions = list(self._sessions.all())
        random.shuffle(sessions)
        for session in sessions:
            session.end(Status.UNAVAILABLE, "this replica is going away; connect again")
            await self._clock.sleep(seconds / len(sessions))
        await self._last_words()
        await self._server.finish()

    async def stop(self) -> None:
        """Close the port and every connection, with or without drain() before."""
        await self._server.finish()

    async def _last_words(self) -> None:
        """Let the streams that have ended tell their daemons so."""
        told = asyncio.Event()
        self._sessions.on_change(told.set)
        try:
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                while self._sessions.nodes():
                    await told.wait()
                    told.clear()
        except TimeoutError:
            log(logger, logging.WARNING, "daemons not told", nodes=len(self._sessions.nodes()))

    async def _close_idle(self) -> None:
        idle: WeakSet[_Accepted] = WeakSet()
        while True:
            await self._clock.sleep(IDLE_SECONDS)
            now_idle = self._server.idle()
            for protocol in now_idle & idle:
                protocol.connection.close()
            idle = now_idle


class _Accepted(BoundedProtocol):
    """A connection whose peer has shown a certificate of our authority."""

    _name = ""

    def __init__(self, *arguments: Any, of: Connections["_Accepted"]) -> None:
        super().__init__(*arguments)
        self._of = of

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        certificate = transport.get_extra_info("peercert") or {}
        self._name = str(certificate.get("subjectAltName", ""))
        self._of.opened(self._name, self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._of.closed(self._name, self)
        super().connection_lost(exc)

    def is_idle(self) -> bool:
        """Tell whether there is no stream on it."""
        return not self.processor.streams

    def leave(self) -> None:
        """Close it for a newer one of its peer."""
        self.connection.close()


class _Server(Server):
    """grpclib's server with bounds and a listener that it does not offer."""

    def __init__(
        self, service: NodeLink, config: Configuration, refused: RefusedPeers, clock: Clock
    ) -> None:
        super().__init__([service], codec=Codec(), config=config)
        self._refused = refused
        self._clock = clock
        self._connections = WeakSet[_Accepted]()
        self._by_pod = Connections[_Accepted](close=_Accepted.leave, is_idle=_Accepted.is_idle)

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        bounds = made.handler, self._config, self._h2_config, self._refused.breach
        protocol = _Accepted(*bounds, of=self._by_pod)
        self._connections.add(protocol)
        return protocol

    async def listen(self, host: str | None, port: int, context: ssl.SSLContext) -> int:
        """Open the port; return its number."""
        tls.bound_read_buffers()
        sockets = await listening_sockets(host, port)
        # grpclib closes it, and waits for its end, as it does with the one it makes itself.
        self._server = Arrivals(  # type: ignore[assignment]
            sockets,
            context,
            protocol=self._protocol_factory,
            on_failed=self._refused.handshake,
            clock=self._clock,
        )
        self._server_closed_fut = asyncio.get_running_loop().create_future()
        return int(sockets[0].getsockname()[1])

    def stop_accepting(self) -> None:
        if self._server is not None:
            self._server.close()

    def idle(self) -> WeakSet[_Accepted]:
        """Return the connections without a stream."""
        return WeakSet(
            one for one in self._connections if hasattr(one, "processor") and one.is_idle()
        )

    async def finish(self) -> None:
        """Cancel what still runs, close the connections and wait for both."""
        self.close()
        for protocol in list(self._connections):
            if hasattr(protocol, "connection"):
                protocol.connection.close()
        await self.wait_closed()
