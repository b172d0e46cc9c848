"""The HTTP/2 protocol of both sides, with the bounds that grpclib leaves open."""

import asyncio
from asyncio import BaseTransport
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any

from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import AbstractHandler, EventsProcessor, H2Protocol, Stream
from h2.config import H2Configuration
from h2.events import RequestReceived
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from kmm_common.bucket import Bucket

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
STREAMS_PER_SECOND = 10.0
"""That a peer may open, for long; each costs a task, however soon it is reset."""
STREAMS_AT_ONCE = 200.0
"""A daemon asks for credentials once for each image that it pulls."""


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


class Breach(Enum):
    """What a peer did that ends its connection or its stream."""

    NO_HTTP2 = "no HTTP/2"
    MESSAGE_TOO_LARGE = "message too large"
    TOO_MANY_STREAMS = "too many streams"


OnBreach = Callable[[Breach, str, str], None]
"""Is told of a breach: which, the peer's address, and what exactly."""


class BoundedProtocol(H2Protocol):
    """grpclib's protocol with bounded messages, streams and buffers; ignores unknown frames."""

    spoken = False
    """Whether the peer has ever sent a frame."""
    _peer = ""
    _broken = False

    def __init__(
        self,
        handler: AbstractHandler,
        config: Configuration,
        h2_config: H2Configuration,
        on_breach: OnBreach,
    ) -> None:
        super().__init__(handler, config, h2_config)
        self._on_breach = on_breach
        self._pace = Bucket(
            rate=STREAMS_PER_SECOND, burst=STREAMS_AT_ONCE, now=asyncio.get_running_loop().time
        )

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self._peer = address_text(transport.get_extra_info("peername"))
        # A transport that grpclib made for us is always a writable one.
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)  # type: ignore[attr-defined]
        self.processor = _Events(self.handler, self.connection)
        too_large = partial(self._on_breach, Breach.MESSAGE_TOO_LARGE, self._peer)
        stream_factory = partial(_stream, self.connection, too_large)
        self.connection.create_stream = stream_factory  # type: ignore[method-assign]
        if not self.h2_config.client_side:
            limits: dict[SettingCodes | int, int] = {
                SettingCodes.MAX_CONCURRENT_STREAMS: CONCURRENT_STREAMS
            }
            self.connection._connection.update_settings(limits)
            self.connection.flush()

    def data_received(self, data: bytes) -> None:
        # What is left in the buffers of a connection that is being closed says nothing new.
        if self._broken:
            return
        # As grpclib does it, but for the error, which it keeps to itself.
        try:
            events = self.connection.feed(data)
        except ProtocolError as error:
            self._break(Breach.NO_HTTP2, f"{type(error).__name__}: {error}")
            return
        self.spoken = self.spoken or bool(events)
        self.connection.flush()
        opened = sum(isinstance(event, RequestReceived) for event in events)
        if opened and self._pace.take(opened) < 0:
            self._break(Breach.TOO_MANY_STREAMS, f"more than {STREAMS_PER_SECOND:g} a second")
            return
        for event in events:
            self.processor.process(event)
        self.connection.flush()
        # h2 refuses a larger frame only once it has all of it, which may be 16 MiB.
        if len(self.connection._connection.incoming_buffer._data) > FRAME_BYTES:
            self._break(Breach.NO_HTTP2, f"a frame of more than {FRAME_BYTES} bytes")

    def _break(self, breach: Breach, problem: str) -> None:
        self._broken = True
        self._on_breach(breach, self._peer, problem)
        self.processor.close(problem)


def address_text(address: Sequence[Any] | None) -> str:
    """Return the host:port of a socket's address; empty where there is none any more."""
    host, port = (address or ("", ""))[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}" if host else ""


class _Events(EventsProcessor):
    def process(self, event: Any) -> None:
        # HTTP/2 wants unknown frames ignored; grpclib would break the connection.
        if event.__class__ in getattr(self, "processors", {}):
            super().process(event)


class _BoundedStream(Stream):
    too_large: Callable[[str], None]

    async def recv_data(self, size: int) -> bytes:
        if size > MESSAGE_BYTES:
            message = f"message of {size} bytes; at most {MESSAGE_BYTES} are accepted"
            self.too_large(message)
            raise GRPCError(Status.RESOURCE_EXHAUSTED, message)
        data: bytes = await super().recv_data(size)
        return data


def _stream(connection: Any, too_large: Callable[[str], None], **arguments: Any) -> _BoundedStream:
    stream = _BoundedStream(connection, connection._connection, connection._transport, **arguments)
    stream.too_large = too_large
    return stream
