"""The gRPC service that daemons talk to."""

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from kmm_common.clock import Clock
from kmm_common.desired import ModuleRef
from kmm_common.logs import log
from kmm_common.oci.credentials import RegistryCredential
from kmm_common.tls import PodIdentity
from kmm_common.wire import convert
from kmm_common.wire.errors import MessageError
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_cp.serving import messages, updates
from kmm_cp.serving.answers import answered, ending, raise_ending
from kmm_cp.serving.connections import connection_of
from kmm_cp.serving.identity import Identities
from kmm_cp.serving.pace import Pace
from kmm_cp.serving.sender import Sender
from kmm_cp.serving.sessions import Session, Sessions
from kmm_cp.serving.values import Report

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

_RPC = "/kmm.v1.NodeLink/"


class ReportSink(Protocol):
    """Where reports go."""

    def report(self, session: Session, report: Report) -> None:
        """Take a daemon's newest report; the last one counts."""
        ...

    def closed(self, session: Session) -> None:
        """The session is over."""
        ...


class CredentialSource(Protocol):
    """Who answers PullCredentials."""

    async def answer(
        self, node: str, ref: ModuleRef, *, uid: str, generation: int, refresh: bool
    ) -> Sequence[RegistryCredential]:
        """Return the credentials of a Module's pull secret, for one of its nodes only."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Times in seconds, and how fast reports are read."""

    first_message: float = 10.0
    credentials: float = 20.0
    recheck: float = 30.0
    """Between two looks at whether a session's pod and certificate are still good."""
    age: float = 6 * 3600.0
    """After which a session is ended, so that daemons spread over the replicas again."""
    age_jitter: float = 0.2
    renewal: float = 120.0
    """Before its certificate expires a session is ended, for one with the renewed certificate."""
    reports_per_second: float = 10.0
    reports_burst: float = 50.0


class NodeLink:
    """Watch, Report and PullCredentials, on grpclib's own streams."""

    def __init__(
        self,
        *,
        identities: Identities,
        sessions: Sessions,
        sender: Sender,
        reports: ReportSink,
        credentials: CredentialSource,
        ready: Callable[[], bool],
        clock: Clock,
        limits: Limits | None = None,
    ) -> None:
        self._identities = identities
        self._sessions = sessions
        self._sender = sender
        self._reports = reports
        self._credentials = credentials
        self._ready = ready
        self._clock = clock
        self._limits = limits or Limits()
        self._random = random.SystemRandom()
        self._closed = False

    def close(self) -> None:
        """Take no new stream; those that run go on."""
        self._closed = True

    def __mapping__(self) -> dict[str, Handler]:
        """Return the handlers by RPC, as grpclib wants them."""
        watch, report, pull = self.watch, self.report, self.pull_credentials
        return {
            f"{_RPC}Watch": Handler(
                answered(watch), Cardinality.UNARY_STREAM, pb.WatchRequest, pb.Update
            ),
            f"{_RPC}Report": Handler(
                answered(report), Cardinality.STREAM_UNARY, pb.ReportMessage, pb.ReportSummary
            ),
            f"{_RPC}PullCredentials": Handler(
                answered(pull),
                Cardinality.UNARY_UNARY,
                pb.PullCredentialsRequest,
                pb.PullCredentialsResponse,
            ),
        }

    async def watch(self, stream: Stream[pb.WatchRequest, pb.Update]) -> None:
        """Serve a daemon's session until either side ends it."""
        pod, node = self._identify(stream)
        greeting = messages.greeting(await self._first(stream))
        rival = self._sessions.of(node)
        self._identities.require_newest(pod, node, here=rival.pod if rival else None)
        # Registered before it is looked up: a change in between is in the mailbox.
        session = self._sessions.open(
            node=node, pod=pod, greeting=greeting, connection=connection_of(stream)
        )
        try:
            self._reports.report(session, greeting.report)
            await self._until_over(
                session,
                self._sender.run(session, stream),
                self._supervise(session, _expiry(stream)),
            )
        finally:
            self._sessions.close(session)
            self._reports.closed(session)
        raise_ending(session)

    async def report(self, stream: Stream[pb.ReportMessage, pb.ReportSummary]) -> None:
        """Read what a daemon says, until its session is over."""
        _, node = self._identify(stream)
        first = await self._first(stream)
        hello = convert.only_member(first, "kind")
        if not isinstance(hello, pb.ReportHello):
            raise MessageError("the first message of a Report must be hello")
        session = self._sessions.reported_by(node, hello.session_id, connection_of(stream))
        if session is None or session.reporting:
            message = "a Report needs a Watch of its own, on the same connection"
            raise GRPCError(Status.FAILED_PRECONDITION, message)
        session.reporting = True
        try:
            await self._until_over(session, self._read(session, stream))
        finally:
            session.end(Status.CANCELLED, "the Report of the session ended")
        raise_ending(session)

    async def pull_credentials(
        self, stream: Stream[pb.PullCredentialsRequest, pb.PullCredentialsResponse]
    ) -> None:
        """Answer one question for credentials."""
        _, node = self._identify(stream)
        request = await self._first(stream)
        async with asyncio.timeout(self._limits.credentials):
            credentials = await self._credentials.answer(
                node,
                convert.ref_from_message(request.module),
                uid=request.uid,
                generation=request.generation,
                refresh=request.refresh,
            )
        await stream.send_message(
            pb.PullCredentialsResponse(credentials=[_to_message(one) for one in credentials])
        )

    def _identify(self, stream: Stream[Any, Any]) -> tuple[PodIdentity, str]:
        if self._closed or not self._ready():
            raise GRPCError(Status.UNAVAILABLE, "this replica is not serving now; try again")
        pod, node = self._identities.identify(stream.peer.cert())
        # Checked at the handshake, too; a connection may last longer than its certificate.
        valid = _expiry(stream) - self._clock.now().timestamp()
        self._identities.confirm(pod, node, valid=valid)
        return pod, node

    async def _first(self, stream: Stream[_T, Any]) -> _T:
        async with asyncio.timeout(self._limits.first_message):
            message = await stream.recv_message()
        if message is None:
            raise MessageError("the stream ended before its first message")
        return message

    async def _until_over(self, session: Session, *work: Awaitable[None]) -> None:
        """Run the work of a stream; whichever of it fails or ends, ends the session."""
        async with asyncio.TaskGroup() as group:
            name = f"session {session.node}"
            tasks = [group.create_task(ending(session, one), name=name) for one in work]
            await session.over.wait()
            for task in tasks:
                task.cancel()

    async def _read(
        self, session: Session, stream: Stream[pb.ReportMessage, pb.ReportSummary]
    ) -> None:
        pace = Pace(
            self._clock, rate=self._limits.reports_per_second, burst=self._limits.reports_burst
        )
        count = 0
        while (message := await stream.recv_message()) is not None:
            self._take(session, convert.only_member(message, "kind"))
            count += 1
            await pace.step()
        await stream.send_message(pb.ReportSummary(reports=count))
        session.end(Status.OK, "the daemon ended its Report")

    def _take(self, session: Session, message: object) -> None:
        match message:
            case pb.Ack():
                session.acked = (message.uid, message.generation)
            case pb.StateReport():
                self._reports.report(session, messages.report(message))
            case pb.Resync():
                fields = {"node": session.node, "session": session.id}
                reason = message.reason[: convert.TEXT_LENGTH]
                log(logger, logging.WARNING, "snapshot asked for", **fields, reason=reason)
                session.progress = updates.after_resync(session.progress)
                session.mailbox.stir()
            case None:
                log(logger, logging.DEBUG, "message of a later release", node=session.node)
            case _:
                raise MessageError("hello must be the first message of a Report only")

    async def _supervise(self, session: Session, expiry: float) -> None:
        """End the session when it is old, or when its certificate or pod is no longer good."""
        began = self._clock.monotonic()
        age, why = self._age(expiry - self._clock.now().timestamp())
        while True:
            left = began + age - self._clock.monotonic()
            valid = expiry - self._clock.now().timestamp()
            self._identities.confirm(session.pod, session.node, valid=valid)
            if left <= 0:
                session.end(Status.UNAVAILABLE, why)
                return
            await self._clock.sleep(min(self._limits.recheck, left, valid))

    def _age(self, valid: float) -> tuple[float, str]:
        """Return how long a session may last, and what its daemon is told then."""
        jitter = self._random.uniform(-self._limits.age_jitter, self._limits.age_jitter)
        age = self._limits.age * (1.0 + jitter)
        renewal = valid - self._limits.renewal * (1.0 + jitter)
        # Whoever comes with what is about to expire has no renewed one yet.
        if 0 < renewal < age:
            return renewal, "the session's certificate expires soon; connect with the renewed one"
        return age, "the session is old; connect again"


def _expiry(stream: Stream[Any, Any]) -> float:
    """Return the Unix time at which the peer's certificate expires."""
    certificate = stream.peer.cert() or {}
    return float(ssl.cert_time_to_seconds(certificate["notAfter"]))


def _to_message(credential: RegistryCredential) -> pb.RegistryCredential:
    return pb.RegistryCredential(
        registry=credential.registry,
        username=credential.username,
        password=credential.password,
        identity_token=credential.identity_token,
    )
