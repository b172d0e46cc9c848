"""What Prometheus and the kubelet ask a program: /metrics, /healthz, /readyz."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11
from prometheus_client import CONTENT_TYPE_LATEST

from kmm_common.clock import SystemClock
from kmm_common.listening import accept, host_and_port, listening, listening_sockets
from kmm_common.logs import log, log_crash
from kmm_common.settings import MetricsTlsSettings
from kmm_common.tls import TlsFilesError

if TYPE_CHECKING:
    from kmm_common.scrapers import ScraperTls

logger = logging.getLogger(__name__)

SETTING = "metrics_listen"
MOST_CONNECTIONS = 32
"""Who is above it is hung up on: the port is open to the node's whole network."""
CONNECTION_SECONDS = 10.0
"""A connection has one request, and is over by then; a TLS handshake counts, too."""
_READ_BYTES = 2**12
_TEXT = "text/plain; charset=utf-8"

Certificate = Mapping[str, Any]
"""As ssl's getpeercert() gives it."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes = b""
    content_type: str = _TEXT

    @classmethod
    def of(cls, status: HTTPStatus) -> "_Answer":
        return cls(status, f"{status.phrase}\n".encode())


_FORBIDDEN = _Answer(
    HTTPStatus.FORBIDDEN,
    b"metrics are for whoever has a certificate with a name that metrics_tls.names lists\n",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    method: bytes
    path: bytes
    certificate: Certificate | None


class MonitoringServer:
    """Serves from start() to stop(); alive as long as it answers."""

    def __init__(
        self,
        address: str,
        *,
        exposition: Callable[[], bytes],
        ready: Callable[[], bool] = lambda: True,
        tls: MetricsTlsSettings | None = None,
        awaits_files: bool = False,
    ) -> None:
        """`exposition` returns the metrics in Prometheus' text format.

        Files of `tls` that are not there are a TlsFilesError; where the program `awaits_files`,
        connections are closed until they are.
        """
        self._address = address
        self._exposition = exposition
        self._ready = ready
        self._tls = _scraper_tls(tls) if tls and not awaits_files else None
        self._awaited = tls if awaits_files else None
        self._problem = ""
        self._accepting: dict[socket.socket, asyncio.Task[None]] = {}
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the port. CannotListenError if it is taken."""
        host, port = host_and_port(self._address)
        with listening(SETTING, self._address):
            sockets = await listening_sockets(host, port)
        self._accepting = {
            one: asyncio.create_task(accept(one, self._welcome, clock=SystemClock()), name="accept")
            for one in sockets
        }

    async def stop(self) -> None:
        """Close the port and every connection."""
        tasks = [*self._accepting.values(), *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in self._accepting:
            one.close()

    def _welcome(self, accepted: socket.socket, _address: Any) -> None:
        if len(self._connections) >= MOST_CONNECTIONS:
            accepted.close()
            return
        connection = asyncio.create_task(self._serve(accepted), name="monitoring connection")
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, accepted: socket.socket) -> None:
        # Whoever sends too little, reads too slowly or goes away is nobody's concern.
        with contextlib.suppress(OSError, h11.ProtocolError):
            if not self._has_its_files():
                accepted.close()
                return
            async with asyncio.timeout(CONNECTION_SECONDS):
                reader, writer = await self._streams(accepted)
                try:
                    await self._converse(reader, writer)
                    writer.close()
                    await writer.wait_closed()
                finally:
                    writer.transport.abort()

    def _has_its_files(self) -> bool:
        if self._awaited is None:
            return True
        try:
            self._tls = _scraper_tls(self._awaited)
        except TlsFilesError as error:
            if str(error) != self._problem:
                log(logger, logging.WARNING, "metrics not served yet", error=str(error))
            self._problem = str(error)
            return False
        self._awaited = None
        return True

    async def _streams(
        self, accepted: socket.socket
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the two ends of a connection, once TLS is up where there is any. OSError."""
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=_READ_BYTES)
        transport, protocol = await loop.connect_accepted_socket(
            lambda: asyncio.StreamReaderProtocol(reader),
            accepted,
            ssl=self._tls.context if self._tls else None,
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

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
            answer = self._guarded(
                _Asked(
                    method=method,
                    path=request.target.partition(b"?")[0],
                    certificate=writer.get_extra_info("peercert"),
                )
            )
        writer.write(_encoded(http, answer, head_only=method == b"HEAD"))
        await writer.drain()

    def _guarded(self, asked: _Asked) -> _Answer:
        try:
            return self._answer(asked)
        except Exception:
            log_crash(logger, "page not served", path=asked.path.decode(errors="replace"))
            return _Answer.of(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _answer(self, asked: _Asked) -> _Answer:
        if asked.method not in (b"GET", b"HEAD"):
            return _Answer.of(HTTPStatus.METHOD_NOT_ALLOWED)
        match asked.path:
            case b"/metrics" if self._tls and not self._tls.admits(asked.certificate):
                return _FORBIDDEN
            case b"/metrics":
                return _Answer(HTTPStatus.OK, self._exposition(), CONTENT_TYPE_LATEST)
            case b"/healthz":
                return _Answer(HTTPStatus.OK, b"ok\n")
            case b"/readyz" if self._ready():
                return _Answer(HTTPStatus.OK, b"ok\n")
            case b"/readyz":
                return _Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"not ready yet\n")
        return _Answer.of(HTTPStatus.NOT_FOUND)


def _scraper_tls(settings: MetricsTlsSettings) -> "ScraperTls":
    """Import what TLS needs only where it is asked for: an idle daemon would pay for it."""
    from kmm_common.scrapers import ScraperTls

    return ScraperTls(settings)


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
