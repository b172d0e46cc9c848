"""The port at which daemons without a certificate ask for one: HTTPS, one request a connection.

Apart from the port of sessions, which serves nobody without a certificate. POST /enrol takes and
returns JSON: {"token", "csr"}, {"certificate"}, or {"error"}.
"""

import asyncio
import contextlib
import json
import logging
import math
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import h11

from kmm_common.clock import Clock
from kmm_common.errors import KmmError, TransientError
from kmm_common.listening import host_and_port, listening_sockets
from kmm_common.logs import log, log_crash
from kmm_common.tls import ServerTls
from kmm_common.wire.http2 import address_text
from kmm_cp.serving.arrivals import Arrivals
from kmm_cp.serving.enrolment import Enrolment, EnrolRequest, TooManyRequestsError
from kmm_cp.serving.identity import NodeIdentityError
from kmm_cp.serving.issue import RequestError
from kmm_cp.serving.ports import Observer, Refusal
from kmm_cp.serving.refused import RefusedPeers
from kmm_cp.serving.token import TokenError

logger = logging.getLogger(__name__)

PATH = b"/enrol"
BODY_BYTES = 16 * 2**10
"""A token has 1 to 2 KiB, a request for a certificate less than half of one."""
MOST_CONNECTIONS = 256
MOST_OF_HOST = 16
"""Nodes behind one address share them."""
CONNECTION_SECONDS = 20.0
_READ_BYTES = 2**12
_BUSY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: dict[str, str]
    retry_after: float = 0.0
    refusal: Refusal | None = None


class EnrolmentPort:
    """Serves from start() to stop()."""

    def __init__(
        self,
        address: str,
        *,
        enrolment: Enrolment,
        server_tls: ServerTls,
        observer: Observer,
        clock: Clock,
    ) -> None:
        """The address is host:port; port 0 takes any free one."""
        self._host, self._wanted = host_and_port(address)
        self._enrolment = enrolment
        self._tls = server_tls
        self._refused = RefusedPeers(observer, clock)
        self._clock = clock
        self._arrivals: Arrivals | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._hosts = Counter[str]()
        self.port = 0

    async def start(self) -> None:
        """Open the port. OSError if it is taken."""
        sockets = await listening_sockets(self._host, self._wanted)
        self.port = int(sockets[0].getsockname()[1])
        self._arrivals = Arrivals(
            sockets,
            self._tls.context,
            protocol=self._protocol,
            on_failed=self._refused.handshake,
            clock=self._clock,
        )
        log(logger, logging.INFO, "enrolling daemons", host=self._host, port=self.port)

    async def run(self) -> None:
        """Keep the certificates fresh, until cancelled."""
        await self._tls.keep_fresh(self._clock)

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._arrivals is None:
            return
        self._arrivals.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._arrivals.wait_closed()

    def _protocol(self) -> asyncio.Protocol:
        return asyncio.StreamReaderProtocol(
            asyncio.StreamReader(limit=_READ_BYTES), self._connected
        )

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = address_text(writer.get_extra_info("peername"))
        host = peer.rpartition(":")[0]
        if len(self._connections) >= MOST_CONNECTIONS or self._hosts[host] >= MOST_OF_HOST:
            self._enrolment.turned_away(peer, Refusal.TOO_MANY_REQUESTS, "too many connections")
            writer.transport.abort()
            return
        serving = self._serve(reader, writer, peer)
        connection = asyncio.create_task(serving, name="enrolment connection")
        self._connections.add(connection)
        self._hosts[host] += 1
        connection.add_done_callback(lambda done: self._gone(done, host))

    def _gone(self, connection: asyncio.Task[None], host: str) -> None:
        self._connections.discard(connection)
        self._hosts -= Counter((host,))

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str
    ) -> None:
        try:
            # Whoever sends too little, reads too slowly or goes away is nobody's concern.
            with contextlib.suppress(OSError, h11.ProtocolError):
                async with asyncio.timeout(CONNECTION_SECONDS):
                    await self._converse(reader, writer, peer)
                    writer.close()
                    await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str
    ) -> None:
        http = h11.Connection(h11.SERVER)
        try:
            body = await _body(http, reader)
        except h11.RemoteProtocolError as error:
            answer = _bad(HTTPStatus(error.error_status_hint), "is no HTTP")
        except _BadRequestError as error:
            answer = _bad(error.status, str(error))
        else:
            answer = await self._guarded(body, peer)
        if answer.refusal is not None:
            self._enrolment.turned_away(peer, answer.refusal, answer.body["error"])
        writer.write(_encoded(http, answer))
        await writer.drain()

    async def _guarded(self, body: bytes, peer: str) -> _Answer:
        try:
            return await self._answer(body)
        except Exception:
            log_crash(logger, "request for a certificate not answered", peer=peer)
            return _Answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "see the log"})

    async def _answer(self, body: bytes) -> _Answer:
        try:
            certificate = await self._enrolment.enrol(_request(body))
        except KmmError as error:
            return _refused(error)
        return _Answer(HTTPStatus.OK, {"certificate": certificate.decode()})


class _BadRequestError(Exception):
    """What a peer sends is no request; `status` says what it is not."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class _Content:
    data: bytearray = field(default_factory=bytearray)

    def take(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > BODY_BYTES:
            message = f"the request is longer than {BODY_BYTES} bytes"
            raise _BadRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


async def _body(http: h11.Connection, reader: asyncio.StreamReader) -> bytes:
    """Return the body of the one request. Raises _BadRequestError, h11.RemoteProtocolError."""
    content = _Content()
    while True:
        match http.next_event():
            case h11.NEED_DATA:
                http.receive_data(await reader.read(_READ_BYTES))
            case h11.Request(method=method, target=target):
                if target != PATH:
                    raise _BadRequestError(HTTPStatus.NOT_FOUND, "daemons enrol at /enrol")
                if method != b"POST":
                    raise _BadRequestError(HTTPStatus.METHOD_NOT_ALLOWED, "daemons POST here")
            case h11.Data(data=data):
                content.take(data)
            case h11.EndOfMessage():
                return bytes(content.data)
            case _:
                raise ConnectionResetError("the peer went away")


def _request(body: bytes) -> EnrolRequest:
    try:
        parsed: Any = json.loads(body)
        token, csr = parsed["token"], parsed["csr"]
        if not isinstance(token, str) or not isinstance(csr, str):
            raise TypeError
        return EnrolRequest(token=token, csr=csr.encode("ascii"))
    except (ValueError, KeyError, TypeError, RecursionError):
        # Without its cause, whose text may quote the token.
        raise RequestError('the body must be {"token": "...", "csr": "..."}') from None


def _refused(error: KmmError) -> _Answer:
    told = {"error": str(error)}
    match error:
        case TokenError():
            return _Answer(HTTPStatus.UNAUTHORIZED, told, refusal=Refusal.TOKEN_REFUSED)
        case NodeIdentityError():
            # It is told with the pod already.
            return _Answer(HTTPStatus.FORBIDDEN, told)
        case TooManyRequestsError(retry_after=wait):
            refusal = Refusal.TOO_MANY_REQUESTS
            return _Answer(HTTPStatus.TOO_MANY_REQUESTS, told, wait or 0.0, refusal)
        case TransientError(retry_after=wait):
            return _Answer(HTTPStatus.SERVICE_UNAVAILABLE, told, wait or _BUSY_SECONDS)
    return _bad(HTTPStatus.BAD_REQUEST, str(error))


def _bad(status: HTTPStatus, why: str) -> _Answer:
    return _Answer(status, {"error": why}, refusal=Refusal.BAD_REQUEST)


def _encoded(http: h11.Connection, answer: _Answer) -> bytes:
    body = json.dumps(answer.body).encode()
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    if answer.retry_after:
        headers.append(("Retry-After", str(math.ceil(answer.retry_after))))
    response = h11.Response(status_code=answer.status, reason=answer.status.phrase, headers=headers)
    events: tuple[h11.Event, ...] = (response, h11.Data(data=body), h11.EndOfMessage())
    return b"".join(http.send(event) or b"" for event in events)
