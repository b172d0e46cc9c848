"""Writes what daemons report into the status of their NodeModulesStates."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Protocol

from kmm_common.api.nodemodulesstate import NodeStatus
from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.errors import KmmError, TransientError
from kmm_common.logs import Fact, log
from kmm_cp.kube.errors import InvalidError, NotFoundError
from kmm_cp.kube.resources import NODE_MODULES_STATES, Resource
from kmm_cp.serving import status_patch
from kmm_cp.serving.sender import Claim
from kmm_cp.serving.sessions import Session
from kmm_cp.serving.status_patch import Json
from kmm_cp.serving.status_record import RawStatus, Record
from kmm_cp.serving.values import Report

logger = logging.getLogger(__name__)

PASSING_SECONDS = 10.0
"""How long a state that may pass is held back: pull and load of most images are one write."""
GAP_SECONDS = 1.0
"""How long the ready label may outlast the module that a reload has taken out."""
CONCURRENT_WRITES = 16
"""More gain nothing at the API server."""
CLAIM_ATTEMPTS = 5


class StatusApi(Protocol):
    """The API server, as kmm_cp.kube.client.KubeClient gives it."""

    async def get(self, resource: Resource, name: str) -> Json:
        """Read one object, with quorum. NotFoundError, TransientError."""
        ...

    async def patch_json(
        self, resource: Resource, name: str, operations: list[Json], *, subresource: str
    ) -> Json:
        """Patch; InvalidError if a test fails. NotFoundError, TransientError."""
        ...


class StatusWriter:
    """One writer for each node with a session here; the newest report wins, the rest is dropped."""

    def __init__(self, *, api: StatusApi, clock: Clock, backoff: Backoff | None = None) -> None:
        self._api = api
        self._clock = clock
        self._backoff = backoff or Backoff(0.5, 30.0)
        self._records: dict[str, Record] = {}
        self._dirty: list[Record] = []
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._slots = asyncio.Semaphore(CONCURRENT_WRITES)

    async def run(self) -> None:
        """Write until cancelled."""
        # Of a life that broke: what it was about to write.
        self._dirty = list(self._records.values())
        for record in self._dirty:
            record.writing = False
        self._wake.set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._wake.wait()
                self._wake.clear()
                records, self._dirty = self._dirty, []
                for record in records:
                    if not record.writing:
                        record.writing = True
                        name = f"status of {record.node}"
                        tasks.create_task(self._write_out(record), name=name)

    async def flush(self) -> None:
        """Wait until everything is written that sessions have reported."""
        while any(record.writing or record.dirty() for record in self._records.values()):
            self._progress.clear()
            await self._progress.wait()

    def report(self, session: Session, report: Report) -> None:
        """Take a daemon's newest report; the last one counts."""
        record = self._records.get(session.node)
        if record is None or record.session is not session:
            # One that was on its way when a newer session began must not take its place.
            if session.ending is None:
                self._records[session.node] = Record(session=session, newest=report)
        elif report.sequence >= record.newest.sequence:
            record.newest = report
            self._touch(record)

    def closed(self, session: Session) -> None:
        """The session is over: write what is left, then forget it."""
        record = self._records.get(session.node)
        if record is not None and record.session is session:
            record.closed = True
            self._touch(record)

    def observed(self, node: str, uid: str, status: NodeStatus, *, listed: bool = False) -> None:
        """Told by the informer's handler; what others have put there is looked into at once.

        `listed`: by a list, which shows what is, not by a watch that may be late.
        """
        record = self._records.get(node)
        if record is None or record.closed or record.uid != uid:
            return
        record.see(status)
        if record.differs(status, listed=listed):
            record.reclaim = True
            self._touch(record)

    async def claim(self, session: Session, uid: str) -> Claim:
        """Claim a NodeModulesState for a session; no write if its instance has it already."""
        record = self._records.get(session.node)
        if record is None or record.session is not session:
            return Claim.LOST
        async with record.turn:
            record.uid, record.held, record.reclaim = uid, False, False
            return await self._claimed(record)

    async def _claimed(self, record: Record, *, again: bool = False) -> Claim:
        """Claim, or `again` what this session has claimed already: then nobody else may have it."""
        seen: RawStatus | None = None
        for _ in range(CLAIM_ATTEMPTS):
            found = await self._read(record.node)
            if found is None or found["metadata"].get("uid") != record.uid:
                return Claim.GONE
            raw = found.get("status") or {}
            if self._records.get(record.node) is not record or (again and record.is_outdone(raw)):
                return Claim.LOST
            if seen is not None and record.was_taken(seen, raw):
                return Claim.LOST
            record.take_over(found)
            if record.holds(raw) or await self._claim(record, raw):
                record.held = True
                self._touch(record)
                return Claim.HELD
            seen = raw
        raise TransientError(f"the status of {record.node} cannot be claimed", reason="Conflict")

    async def _claim(self, record: Record, raw: RawStatus) -> bool:
        newest, wanted, now = record.newest, record.wanted(), self._clock.now()
        conditions = record.timed(wanted, now)
        patch = status_patch.claim(
            raw,
            uid=record.uid,
            daemon=record.daemon(since=now),
            wanted=wanted,
            conditions=conditions,
        )
        try:
            await self._patch(record, patch)
        except (InvalidError, NotFoundError):
            return False
        self._written(record, wanted, conditions, newest.sequence)
        return True

    async def _write_out(self, record: Record) -> None:
        """Write until nothing new is left."""
        attempt = 0
        try:
            while self._is_to_write(record):
                await self._let_pass(record)
                try:
                    async with self._slots, record.turn:
                        if self._is_to_write(record):
                            await self._write(record)
                    attempt = 0
                except KmmError as error:
                    attempt += 1
                    if attempt == 1:
                        fields = {"node": record.node, "error": str(error)}
                        log(logger, logging.WARNING, "status not written", **fields)
                    asked = error.retry_after if isinstance(error, TransientError) else None
                    await self._clock.sleep(max(self._backoff.delay(attempt), asked or 0.0))
        finally:
            record.writing = False
            self._progress.set()
        if record.closed and self._records.get(record.node) is record:
            del self._records[record.node]

    def _is_to_write(self, record: Record) -> bool:
        """Tell whether a record has news, and no newer session of the node has more."""
        return self._records.get(record.node) is record and record.dirty()

    async def _let_pass(self, record: Record) -> None:
        """Hold back a state that is likely to be over soon: a pull, a load, a reload's gap."""
        end = self._clock.monotonic() + PASSING_SECONDS
        gap_end: float | None = None
        while not (record.closed or record.reclaim):
            written, wanted = record.written, record.wanted()
            if not status_patch.passing(written, wanted):
                return
            now = self._clock.monotonic()
            in_gap = status_patch.in_gap(written, wanted)
            gap_end = (gap_end or now + GAP_SECONDS) if in_gap else None
            left = (gap_end or end) - now
            if left <= 0:
                return
            record.news.clear()
            await _first(record.news.wait(), self._clock.sleep(left))

    async def _write(self, record: Record) -> None:
        if record.reclaim:
            await self._reclaim(record)
            return
        newest, wanted = record.newest, record.wanted()
        if wanted in (record.written, record.refused):
            return
        conditions = record.timed(wanted, self._clock.now())
        patch = status_patch.update(
            record.written,
            wanted,
            conditions=conditions,
            uid=record.uid,
            instance=record.instance,
            before=record.sequence,
            sequence=newest.sequence,
        )
        try:
            await self._patch(record, patch)
        except NotFoundError:
            record.lose()
        except InvalidError as error:
            await self._settle(record, wanted, error)
        else:
            self._written(record, wanted, conditions, newest.sequence)

    async def _reclaim(self, record: Record) -> None:
        """Somebody may have changed the status: see that it says again what the daemon says."""
        record.reclaim = False
        try:
            claim = await self._claimed(record, again=True)
        except KmmError:
            record.reclaim = True
            raise
        if claim is Claim.LOST:
            self._superseded(record)
        elif claim is Claim.GONE:
            record.lose()

    async def _settle(self, record: Record, wanted: Json, error: InvalidError) -> None:
        """A test failed, or the content is refused: look what is there now."""
        sequence = record.sequence
        found = await self._read(record.node)
        if found is None or found["metadata"].get("uid") != record.uid:
            record.lose()
            return
        raw = found.get("status") or {}
        if not record.is_of(raw):
            self._superseded(record)
            return
        if not record.holds(raw):
            record.reclaim = True
            return
        record.take_over(found)
        if record.sequence == sequence:
            fields = {"node": record.node, "error": str(error)}
            log(logger, logging.ERROR, "status refused by the API server", **fields)
            record.refused = wanted

    def _superseded(self, record: Record) -> None:
        record.lose()
        record.session.lose()

    async def _patch(self, record: Record, operations: list[Json]) -> None:
        await self._api.patch_json(
            NODE_MODULES_STATES, record.node, operations, subresource="status"
        )

    async def _read(self, node: str) -> Json | None:
        try:
            return await self._api.get(NODE_MODULES_STATES, node)
        except NotFoundError:
            return None

    def _written(self, record: Record, wanted: Json, conditions: list[Json], sequence: int) -> None:
        record.written, record.conditions, record.sequence = wanted, conditions, sequence
        fields = {"node": record.node, "instance": record.instance, "sequence": sequence}
        log(logger, logging.INFO, Fact.PERSISTED, **fields)

    def _touch(self, record: Record) -> None:
        record.news.set()
        self._dirty.append(record)
        self._wake.set()


async def _first(*awaitables: Any) -> None:
    """Wait for the first of several; the others are cancelled."""
    over = asyncio.Event()

    async def one(awaitable: Any) -> None:
        await awaitable
        over.set()

    async with asyncio.TaskGroup() as group:
        tasks: Iterable[asyncio.Task[None]] = [
            group.create_task(one(each), name="status wait") for each in awaitables
        ]
        await over.wait()
        for task in tasks:
            task.cancel()
