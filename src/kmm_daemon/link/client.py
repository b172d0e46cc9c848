"""Keeps the session with the control plane, and asks for credentials over it."""

import asyncio
import logging
from collections.abc import Sequence
from uuid import uuid4

import h2.exceptions
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from kmm_common.api.names import Reason
from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.desired import ModuleRef
from kmm_common.errors import KmmError, TransientError
from kmm_common.logs import log
from kmm_common.oci.credentials import RegistryCredential
from kmm_common.tls import TlsFiles, client_context
from kmm_common.wire import convert
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_daemon.link import messages
from kmm_daemon.link.channel import LinkChannel
from kmm_daemon.link.ports import Holder, Told
from kmm_daemon.link.session import Session
from kmm_daemon.link.trouble import Endpoint, NoConnectionError

logger = logging.getLogger(__name__)

STABLE_SECONDS = 30.0
"""A session that lived so long was a good one: the next attempt comes quickly."""
CREDENTIALS_SECONDS = 20.0

_UNAUTHORIZED = {Status.PERMISSION_DENIED, Status.NOT_FOUND, Status.FAILED_PRECONDITION}
_BROKEN = (StreamTerminatedError, ProtocolError, h2.exceptions.ProtocolError)
"""What grpclib makes of a connection that is over, whatever ended it."""
_EXPECTED = (KmmError, OSError, GRPCError, *_BROKEN)


def reconnect_backoff() -> Backoff:
    """Return full jitter of 1 to 60 s: thousands of daemons lose their session at once."""
    return Backoff(1.0, 60.0, 1.0)


class LinkClient:
    """Connects, serves a session, and connects again; for ever."""

    def __init__(
        self,
        address: str,
        *,
        files: TlsFiles,
        holder: Holder,
        told: Told,
        clock: Clock,
        version: str,
        server_name: str = "",
        backoff: Backoff | None = None,
    ) -> None:
        """The address is host:port; `server_name`, if given, is what the server must prove to be.

        Certificates are read anew at every connection.
        """
        name, _, port = address.rpartition(":")
        host = name.strip("[]")
        self._endpoint = Endpoint(
            host=host, port=int(port), server_name=server_name or host, files=files
        )
        self._holder = holder
        self._told = told
        self._clock = clock
        self._version = version
        self._instance = uuid4().hex
        self._backoff = backoff or reconnect_backoff()
        self._channel: LinkChannel | None = None
        self._opened_at: float | None = None
        self._problem = ""

    async def run(self) -> None:
        """Hold sessions until cancelled."""
        try:
            await self._sessions()
        finally:
            self._told.session(connected=False, problem="the daemon stops")

    async def _sessions(self) -> None:
        attempt = 0
        while True:
            self._opened_at = None
            try:
                # In a task of its own: how often that is cancelled is grpclib's business.
                await asyncio.create_task(self._session(), name="link session")
            except Exception as error:
                _unless_cancelled()
                self._closed(error)
            attempt = 1 if self._was_stable() else attempt + 1
            await self._clock.sleep(self._backoff.delay(attempt))

    async def fetch(self, ref: ModuleRef, refresh: bool) -> Sequence[RegistryCredential]:
        """Return the credentials of a Module's pull secret, never kept. Raises TransientError.

        `refresh`: the registry has refused those of the last answer.
        """
        if self._channel is None:
            message = "no session with the control plane, which knows the pull secret"
            raise TransientError(message, reason=Reason.IMAGE_PULL_FAILED)
        try:
            async with asyncio.timeout(CREDENTIALS_SECONDS):
                response = await self._ask(self._channel, ref, refresh=refresh)
        except GRPCError as error:
            refused = error.status in _UNAUTHORIZED
            reason = Reason.IMAGE_UNAUTHORIZED if refused else Reason.IMAGE_PULL_FAILED
            raise TransientError(f"pull secret: {error.message}", reason=reason) from error
        except _EXPECTED as error:
            message = f"pull secret: {_told(error)}"
            raise TransientError(message, reason=Reason.IMAGE_PULL_FAILED) from error
        return tuple(messages.credential(one) for one in response.credentials)

    async def _ask(
        self, channel: LinkChannel, ref: ModuleRef, *, refresh: bool
    ) -> pb.PullCredentialsResponse:
        hello = self._holder.hello()
        request = pb.PullCredentialsRequest(
            module=convert.ref_to_message(ref),
            uid=hello.uid,
            generation=hello.generation,
            refresh=refresh,
        )
        async with channel.request(
            "/kmm.v1.NodeLink/PullCredentials",
            Cardinality.UNARY_UNARY,
            pb.PullCredentialsRequest,
            pb.PullCredentialsResponse,
        ) as stream:
            await stream.send_message(request, end=True)
            response = await stream.recv_message()
        if response is None:
            raise TransientError("the control plane gave no answer")
        return response

    async def _session(self) -> None:
        context = await asyncio.to_thread(client_context, self._endpoint.files)
        channel = LinkChannel(self._endpoint, context=context)
        try:
            await channel.connect()
            self._channel = channel
            session = Session(channel, self._holder, opened=self._opened)
            await session.run(instance=self._instance, version=self._version)
        except Exception as error:
            cause = _cause(error)
            if channel.ending and isinstance(cause, _BROKEN):
                raise NoConnectionError(channel.ending) from error
            raise
        finally:
            self._channel = None
            channel.close()

    def _opened(self) -> None:
        self._opened_at = self._clock.monotonic()
        self._problem = ""
        self._told.session(connected=True)
        fields = {
            "host": self._endpoint.host,
            "port": self._endpoint.port,
            "instance": self._instance,
        }
        log(logger, logging.INFO, "session with the control plane", **fields)

    def _closed(self, error: Exception) -> None:
        """Tell why there is no session, once for each reason."""
        cause = _cause(error)
        problem = _told(cause)
        if not isinstance(cause, _EXPECTED):
            logger.error("link broke", exc_info=cause)
        elif problem != self._problem:
            host, port = self._endpoint.host, self._endpoint.port
            fields = {"host": host, "port": port, "error": problem}
            log(logger, logging.WARNING, "no session with the control plane", **fields)
        self._problem = problem
        self._told.session(connected=False, problem=problem)

    def _was_stable(self) -> bool:
        opened = self._opened_at
        return opened is not None and self._clock.monotonic() - opened >= STABLE_SECONDS


def _unless_cancelled() -> None:
    """Raise the CancelledError of which an error has taken the place.

    A session of which a part fails while it is cancelled ends with that failure, in a TaskGroup as
    in grpclib: whoever takes it for the end of a session only would go on for ever.
    """
    task = asyncio.current_task()
    if task and task.cancelling():
        raise asyncio.CancelledError


def _cause(error: Exception) -> Exception:
    """Return the one error of a session's tasks that says most: what the other side said."""
    if not isinstance(error, ExceptionGroup):
        return error
    causes = [_cause(one) for one in error.exceptions]
    return min(causes, key=lambda one: (isinstance(one, _EXPECTED), not isinstance(one, GRPCError)))


def _told(error: Exception) -> str:
    if isinstance(error, GRPCError):
        return f"{error.status.name}: {error.message or 'no reason given'}"
    return str(error) or type(error).__name__
