"""One connection to the control plane."""

import asyncio
import ssl
from collections.abc import Callable

from grpclib.client import Channel, Handler
from grpclib.config import Configuration
from grpclib.protocol import H2Protocol
from h2.config import H2Configuration

from kmm_common import tls
from kmm_common.wire.codec import Codec
from kmm_common.wire.http2 import BoundedProtocol, Breach, configuration
from kmm_daemon.link.trouble import Endpoint, NoConnectionError

CONNECT_SECONDS = 20.0
"""For name, TCP and TLS together; the TLS handshake alone has half of it."""
KEEPALIVE_SECONDS = 30.0
KEEPALIVE_TIMEOUT_SECONDS = 10.0


class LinkChannel(Channel):
    """grpclib's channel with bounds, with timeouts where it offers none, and with reasons."""

    def __init__(self, endpoint: Endpoint, *, context: ssl.SSLContext) -> None:
        config = configuration(keepalive=KEEPALIVE_SECONDS, timeout=KEEPALIVE_TIMEOUT_SECONDS)
        host, port = endpoint.host, endpoint.port
        super().__init__(host, port, ssl=context, codec=Codec(), config=config)
        self._endpoint = endpoint
        self._context = context
        self.ending = ""
        """Why the last connection is over; empty while it is not."""

    async def connect(self) -> None:
        """Connect now. NoConnectionError."""
        await self.__connect__()

    def _protocol_factory(self) -> H2Protocol:
        return _Protocol(self._config, self._h2_config, self._endpoint, self._ended)

    def _ended(self, why: str) -> None:
        # What comes first is the cause of what comes after.
        self.ending = self.ending or why

    async def _create_connection(self) -> H2Protocol:
        self.ending = ""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await self._connected_protocol()
        except OSError as error:
            raise NoConnectionError(self._endpoint.not_connected(error)) from error

    async def _connected_protocol(self) -> H2Protocol:
        tls.bound_read_buffers()
        _, protocol = await asyncio.get_running_loop().create_connection(
            self._protocol_factory,
            self._host,
            self._port,
            ssl=self._context,
            server_hostname=self._endpoint.server_name,
            ssl_handshake_timeout=tls.HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=tls.SHUTDOWN_SECONDS,
        )
        return protocol


class _Protocol(BoundedProtocol):
    """Tells why it ends, which grpclib keeps to itself."""

    def __init__(
        self,
        config: Configuration,
        h2_config: H2Configuration,
        endpoint: Endpoint,
        ended: Callable[[str], None],
    ) -> None:
        super().__init__(Handler(), config, h2_config, self._breach)
        self._endpoint = endpoint
        self._ended = ended
        self._heard = False

    def data_received(self, data: bytes) -> None:
        self._heard = True
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._heard and not self.spoken:
            self._ended(self._endpoint.no_http2("no frame came"))
        self._ended(self._endpoint.lost(exc, heard=self._heard))
        super().connection_lost(exc)

    def _breach(self, breach: Breach, _: str, problem: str) -> None:
        # A message that is too large says so in the error of its stream.
        if breach is Breach.NO_HTTP2:
            self._ended(self._endpoint.no_http2(problem))
