"""The sessions of this replica: at most one for each node, the newest one wins."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from grpclib.const import Status

from kmm_common.clock import Clock
from kmm_common.logs import log
from kmm_common.tls import PodIdentity
from kmm_cp.serving.mailbox import Mailbox
from kmm_cp.serving.ports import Observer
from kmm_cp.serving.updates import Progress
from kmm_cp.serving.values import Greeting

logger = logging.getLogger(__name__)

FLAPPING_TAKEOVERS = 3
FLAPPING_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session is over, as its daemon is told."""

    status: Status
    message: str


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One daemon's Watch with its Report."""

    node: str
    pod: PodIdentity
    greeting: Greeting
    connection: object = field(repr=False)
    """Watch and Report must come over the same one."""
    id: str = field(default_factory=lambda: uuid4().hex)
    mailbox: Mailbox = field(default_factory=Mailbox, repr=False)
    progress: Progress = field(default_factory=Progress, repr=False)
    acked: tuple[str, int] = ("", 0)
    """uid and generation that the daemon has journaled."""
    reporting: bool = False
    ending: Ending | None = None
    lost: bool = False
    """Another daemon of the node has a session, with another replica."""
    over: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def end(self, status: Status, message: str) -> None:
        """End both streams; the first reason counts."""
        if self.ending is None:
            self.ending = Ending(status, message)
            self.over.set()

    def lose(self) -> None:
        """End it: another replica has the node's session now."""
        self.lost = True
        self.end(Status.ABORTED, "another session of this node took over")


class Sessions:
    """The registry; tells who listens whenever the served nodes change."""

    def __init__(self, *, clock: Clock, observer: Observer) -> None:
        self._clock = clock
        self._observer = observer
        self._live: dict[str, Session] = {}
        self._takeovers: dict[str, deque[float]] = {}
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call the listener after every change of nodes()."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        self._listeners.remove(listener)

    def nodes(self) -> frozenset[str]:
        """Return the nodes with a live session."""
        return frozenset(self._live)

    def of(self, node: str) -> Session | None:
        """Return the live session of a node."""
        return self._live.get(node)

    def reported_by(self, node: str, session_id: str, connection: object) -> Session | None:
        """Return the live session that a Report stream belongs to."""
        session = self._live.get(node)
        if session is None or session.connection is not connection:
            return None
        return session if session.id == session_id else None

    def open(
        self, *, node: str, pod: PodIdentity, greeting: Greeting, connection: object
    ) -> Session:
        """Start a session; an older one of the node ends."""
        session = Session(node=node, pod=pod, greeting=greeting, connection=connection)
        session.progress = Progress(journaled=greeting.journaled)
        older = self._live.get(node)
        self._live[node] = session
        if older is not None:
            older.end(Status.ABORTED, "another session of this node took over")
            if older.greeting.instance != greeting.instance:
                self._taken_over(node)
        fields = {"node": node, "session": session.id, "instance": greeting.instance}
        log(logger, logging.INFO, "session opened", **fields, pod=pod.name)
        self._tell()
        return session

    def close(self, session: Session) -> None:
        """Forget a session whose streams have ended."""
        session.end(Status.CANCELLED, "the daemon ended the session")
        reason = session.ending.message if session.ending else ""
        fields = {"node": session.node, "session": session.id, "reason": reason}
        log(logger, logging.INFO, "session closed", **fields)
        if self._live.get(session.node) is session:
            del self._live[session.node]
            if session.lost:
                self._taken_over(session.node)
            self._tell()

    def all(self) -> tuple[Session, ...]:
        """Return the live sessions."""
        return tuple(self._live.values())

    def _taken_over(self, node: str) -> None:
        now = self._clock.monotonic()
        times = self._takeovers.setdefault(node, deque(maxlen=FLAPPING_TAKEOVERS))
        times.append(now)
        self._forget_takeovers(now)
        if len(times) == FLAPPING_TAKEOVERS and now - times[0] <= FLAPPING_SECONDS:
            log(logger, logging.WARNING, "session flapping", node=node, takeovers=len(times))
            self._observer.flapping(node, len(times))
            times.clear()

    def _forget_takeovers(self, now: float) -> None:
        """Keep no node's that has had none for so long that they do not count."""
        for node, times in list(self._takeovers.items()):
            if not times or now - times[-1] > FLAPPING_SECONDS:
                del self._takeovers[node]

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
