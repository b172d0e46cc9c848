"""The HTTP/2 protocol of both sides, with the bounds that grpclib leaves open."""

from asyncio import BaseTransport
from functools import partial
from typing import Any

from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import EventsProcessor, H2Protocol, Stream
from h2.settings import SettingCodes

MESSAGE_BYTES = 4 * 2**20
"""Bound of one message; a larger one is refused by its length, before any of it is kept."""
WINDOW_BYTES = 256 * 2**10
"""What a peer may send ahead of what was read."""
WRITE_BUFFER_BYTES = 64 * 2**10
"""What is buffered for a peer that reads slowly before sending waits."""
FRAME_BYTES = 9 + 2**14
"""A header and the largest frame that HTTP/2 allows unless told otherwise."""
CONCURRENT_STREAMS = 8
"""A daemon needs three: Watch, Report and PullCredentials."""


def configuration(*, keepalive: float, timeout: float) -> Configuration:
    """Return settings by which an idle connection is pinged, for ever, every so many seconds.

    With grpclib's own defaults an idle connection gets two pings and then never another.
    """
    return Configuration(
        _keepalive_time=keepalive,
        _keepalive_timeout=timeout,
        _keepalive_permit_without_calls=True,
        _http2_max_pings_without_data=0,
        _http2_min_sent_ping_interval_without_data=keepalive / 2,
        http2_connection_window_size=WINDOW_BYTES,
        http2_stream_window_size=WINDOW_BYTES,
    )


class BoundedProtocol(H2Protocol):
    """grpclib's protocol with bounded messages, streams and buffers; ignores unknown frames."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        # A transport that grpclib made for us is always a writable one.
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)  # type: ignore[attr-defined]
        self.processor = _Events(self.handler, self.connection)
        stream_factory = partial(_stream, self.connection)
        self.connection.create_stream = stream_factory  # type: ignore[method-assign]
        if not self.h2_config.client_side:
            limits: dict[SettingCodes | int, int] = {
                SettingCodes.MAX_CONCURRENT_STREAMS: CONCURRENT_STREAMS
            }
            self.connection._connection.update_settings(limits)
            self.connection.flush()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # h2 refuses a larger frame only once it has all of it, which may be 16 MiB.
        if len(self.connection._connection.incoming_buffer._data) > FRAME_BYTES:
            self.processor.close("frame too large")


class _Events(EventsProcessor):
    def process(self, event: Any) -> None:
        # HTTP/2 wants unknown frames ignored; grpclib would break the connection.
        if event.__class__ in getattr(self, "processors", {}):
            super().process(event)


class _BoundedStream(Stream):
    async def recv_data(self, size: int) -> bytes:
        if size > MESSAGE_BYTES:
            message = f"message of {size} bytes; at most {MESSAGE_BYTES} are accepted"
            raise GRPCError(Status.RESOURCE_EXHAUSTED, message)
        data: bytes = await super().recv_data(size)
        return data


def _stream(connection: Any, **arguments: Any) -> _BoundedStream:
    return _BoundedStream(connection, connection._connection, connection._transport, **arguments)
