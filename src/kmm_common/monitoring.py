"""What Prometheus and the kubelet ask a program: /metrics, /healthz, /readyz."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

import h11
from prometheus_client import CONTENT_TYPE_LATEST

from kmm_common.listening import host_and_port, listening
from kmm_common.logs import log_crash

logger = logging.getLogger(__name__)

SETTING = "metrics_listen"
MOST_CONNECTIONS = 32
"""Who is above it is hung up on: the port is open to the node's whole network."""
CONNECTION_SECONDS = 10.0
"""A connection has one request, and is over by then."""
_READ_BYTES = 2**12
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes = b""
    content_type: str = _TEXT

    @classmethod
    def of(cls, status: HTTPStatus) -> "_Answer":
        return cls(status, f"{status.phrase}\n".encode())


class MonitoringServer:
    """Serves from start() to stop(); alive as long as it answers."""

    def __init__(
        self,
        address: str,
        *,
        exposition: Callable[[], bytes],
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """`exposition` returns the metrics in Prometheus' text format."""
        self._address = address
        self._exposition = exposition
        self._ready = ready
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the port. CannotListenError if it is taken."""
        host, port = host_and_port(self._address)
        with listening(SETTING, self._address):
            self._server = await asyncio.start_server(
                self._connected, host, port, limit=_READ_BYTES
            )

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is None:
            return
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        connection = asyncio.create_task(self._serve(reader, writer), name="monitoring connection")
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # Whoever sends too little, reads too slowly or goes away is nobody's concern.
            with contextlib.suppress(OSError, h11.ProtocolError):
                async with asyncio.timeout(CONNECTION_SECONDS):
                    await self._converse(reader, writer)
                    writer.close()
                    await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        method = b"GET"
        try:
            request = await _request(http, reader)
        except h11.RemoteProtocolError as error:
            answer = _Answer.of(HTTPStatus(error.error_status_hint))
        else:
            if request is None:
                return
            method = request.method
            answer = self._guarded(method, request.target.partition(b"?")[0])
        writer.write(_encoded(http, answer, head_only=method == b"HEAD"))
        await writer.drain()

    def _guarded(self, method: bytes, path: bytes) -> _Answer:
        try:
            return self._answer(method, path)
        except Exception:
            log_crash(logger, "page not served", path=path.decode(errors="replace"))
            return _Answer.of(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _answer(self, method: bytes, path: bytes) -> _Answer:
        if method not in (b"GET", b"HEAD"):
            return _Answer.of(HTTPStatus.METHOD_NOT_ALLOWED)
        match path:
            case b"/metrics":
                return _Answer(HTTPStatus.OK, self._exposition(), CONTENT_TYPE_LATEST)
            case b"/healthz":
                return _Answer(HTTPStatus.OK, b"ok\n")
            case b"/readyz" if self._ready():
                return _Answer(HTTPStatus.OK, b"ok\n")
            case b"/readyz":
                return _Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"not ready yet\n")
        return _Answer.of(HTTPStatus.NOT_FOUND)


async def _request(http: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """Return the head of a request; None if the other side says nothing. Its body is not read."""
    while True:
        match http.next_event():
            case h11.NEED_DATA:
                http.receive_data(await reader.read(_READ_BYTES))
            case h11.Request() as request:
                return request
            case _:
                return None


def _encoded(http: h11.Connection, answer: _Answer, *, head_only: bool) -> bytes:
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Connection", "close"),
    ]
    if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", "GET, HEAD"))
    events: list[h11.Event] = [
        h11.Response(status_code=answer.status, reason=answer.status.phrase, headers=headers)
    ]
    if not head_only:
        events += [h11.Data(data=answer.body), h11.EndOfMessage()]
    return b"".join(http.send(event) or b"" for event in events)
