"""Brings one daemon to its target: looks it up, claims the node's status, pushes updates."""

import asyncio
import logging
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from grpclib.const import Status
from grpclib.server import Stream

from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.errors import TransientError
from kmm_common.logs import Fact, log
from kmm_common.wire.codec import Pre
from kmm_cp.serving import updates
from kmm_cp.serving.connections import abandon
from kmm_cp.serving.fragments import Fragments
from kmm_cp.serving.ports import Observer, States
from kmm_cp.serving.sessions import Session
from kmm_cp.serving.turns import Turns
from kmm_cp.serving.updates import Push
from kmm_cp.serving.values import Target

logger = logging.getLogger(__name__)

READ_SECONDS = 10.0


class Claim(Enum):
    """What came of the attempt to become the one who writes a node's status."""

    HELD = "held"
    LOST = "lost"
    """Another daemon instance has it."""
    GONE = "gone"
    """There is no NodeModulesState of that uid any more."""


class Claims(Protocol):
    """The status writer, as far as a session needs it before it pushes."""

    async def claim(self, session: Session, uid: str) -> Claim:
        """Claim a NodeModulesState for a session. Raises TransientError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Shared by all sessions of a replica."""

    states: States
    claims: Claims
    fragments: Fragments
    observer: Observer
    clock: Clock
    turns: Turns
    send_seconds: float = 10.0
    """A daemon that does not take an update for so long loses its session."""
    backoff: Backoff = field(default_factory=lambda: Backoff(0.5, 30.0, 1.0))

    async def run(self, session: Session, stream: Stream[Any, Any]) -> None:
        """Push until cancelled; ends the session if its daemon cannot be served."""
        await self._look_up(session)
        claimed = ""
        while session.ending is None:
            target = session.mailbox.target
            if target is not None and target.uid != claimed:
                claimed = target.uid if await self._claim(session, target.uid) else ""
            if claimed:
                await self.turns.take()
                await self._push(session, stream, claimed)
            await session.mailbox.news()

    async def _look_up(self, session: Session) -> None:
        """Fill the mailbox; with what the API server holds if the cache may be behind."""
        journaled, attempt = session.greeting.journaled, 0
        cached = self.states.cached(session.node)
        if cached is not None and not updates.needs_quorum(journaled, cached):
            session.mailbox.put(cached)
            return
        while True:
            attempt += 1
            try:
                async with asyncio.timeout(READ_SECONDS):
                    current = await self.states.read(session.node)
            except (TransientError, TimeoutError) as error:
                asked = error.retry_after if isinstance(error, TransientError) else None
                await self.clock.sleep(max(self.backoff.delay(attempt), asked or 0.0))
                continue
            if self._settle(session, cached, current):
                return
            await self.clock.sleep(self.backoff.delay(attempt))

    def _settle(self, session: Session, cached: Target | None, current: Target | None) -> bool:
        """Take over what was read; False while the notifier meanwhile knows another object."""
        journaled, waiting = session.greeting.journaled, session.mailbox.target
        if waiting is not None and (current is None or waiting.uid != current.uid):
            return False
        if current is None:
            return True
        for uid in {journaled.uid, cached.uid if cached else ""} - {current.uid, ""}:
            session.mailbox.leave(uid)
        if current.uid == journaled.uid and current.generation < journaled.generation:
            self.observer.ahead(session.node, journaled.uid, journaled.generation)
        session.mailbox.put(current)
        return True

    async def _claim(self, session: Session, uid: str) -> bool:
        attempt = 0
        while True:
            attempt += 1
            try:
                claim = await self.claims.claim(session, uid)
            except TransientError as error:
                if attempt == 1:
                    fields = {"node": session.node, "error": str(error)}
                    log(logger, logging.WARNING, "status not claimed", **fields)
                await self.clock.sleep(error.retry_after or self.backoff.delay(attempt))
                continue
            if claim is Claim.LOST:
                session.lose()
            return claim is Claim.HELD

    async def _push(self, session: Session, stream: Stream[Any, Any], claimed: str) -> None:
        target = session.mailbox.target
        if target is None or target.uid != claimed:
            session.mailbox.stir()
            return
        content_hash = self.fragments.content_hash(target)
        push = updates.plan(target, content_hash, session.progress)
        if push is None:
            return
        session.progress = updates.after(target, push)
        await self._send(session, stream, target, push)

    async def _send(
        self, session: Session, stream: Stream[Any, Any], target: Target, push: Push
    ) -> None:
        message: Pre = self.fragments.encode(
            target,
            push,
            session_id=session.id,
            protocol_version=session.greeting.protocol_version,
        )
        try:
            async with asyncio.timeout(self.send_seconds):
                await stream.send_message(message)
        except TimeoutError:
            session.end(Status.DEADLINE_EXCEEDED, f"no update taken for {self.send_seconds:.0f} s")
            abandon(stream)
            return
        self.observer.sent(push.kind)
        fields = {"node": session.node, "session": session.id, "uid": target.uid}
        log(
            logger,
            logging.INFO,
            Fact.SENT,
            **fields,
            generation=target.generation,
            kind=push.kind.value,
        )
