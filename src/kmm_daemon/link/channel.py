"""One connection to the control plane."""

import asyncio
import ssl

from grpclib.client import Channel, Handler
from grpclib.protocol import H2Protocol

from kmm_common import tls
from kmm_common.wire.codec import Codec
from kmm_common.wire.http2 import BoundedProtocol, configuration

CONNECT_SECONDS = 20.0
"""For name, TCP and TLS together; the TLS handshake alone has half of it."""
KEEPALIVE_SECONDS = 30.0
KEEPALIVE_TIMEOUT_SECONDS = 10.0


class LinkChannel(Channel):
    """grpclib's channel with bounds, and with timeouts where it offers none."""

    def __init__(self, host: str, port: int, *, context: ssl.SSLContext, server_name: str) -> None:
        config = configuration(keepalive=KEEPALIVE_SECONDS, timeout=KEEPALIVE_TIMEOUT_SECONDS)
        super().__init__(host, port, ssl=context, codec=Codec(), config=config)
        self._context = context
        self._server_name = server_name

    async def connect(self) -> None:
        """Connect now. OSError or TimeoutError."""
        async with asyncio.timeout(CONNECT_SECONDS):
            await self.__connect__()

    def _protocol_factory(self) -> H2Protocol:
        return BoundedProtocol(Handler(), self._config, self._h2_config)

    async def _create_connection(self) -> H2Protocol:
        tls.bound_read_buffers()
        _, protocol = await asyncio.get_running_loop().create_connection(
            self._protocol_factory,
            self._host,
            self._port,
            ssl=self._context,
            server_hostname=self._server_name,
            ssl_handshake_timeout=tls.HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=tls.SHUTDOWN_SECONDS,
        )
        return protocol
