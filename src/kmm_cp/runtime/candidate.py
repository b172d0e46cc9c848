"""One replica's part in the election: it waits, leads, and waits again."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.errors import KmmError, TransientError
from kmm_common.logs import log
from kmm_cp.runtime import election
from kmm_cp.runtime.deadline import within
from kmm_cp.runtime.election import ChangedError, Claim, Record, Sight, Timing

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 2.0
"""For reconciles in progress to end before a leader steps down."""
RELEASE_SECONDS = 2.0
CHANGED_SECONDS = 0.1
"""Before the next attempt where somebody else has written to the record."""
_NEVER = float("-inf")
_NO_TERM = -1


class Records(Protocol):
    """Where the record is kept."""

    async def read(self) -> Record | None:
        """Return the record, None if there is none. Raises KmmError."""
        ...

    async def write(self, record: Record) -> Record:
        """Write in the place of what was read or written last; return it with its stamp.

        ChangedError if that is not there any more; other KmmErrors.
        """
        ...


class Work(Protocol):
    """What is run for one term."""

    async def run(self) -> None:
        """Lead until cancelled, or until the end that stop() asked for."""
        ...

    def stop(self) -> None:
        """Let run() end when what is in progress is done."""
        ...


class Observer(Protocol):
    """Told when a term begins."""

    def leads(self) -> None: ...


class Candidate:
    """At any moment at most one candidate leads, unless a record is deleted or its name shared.

    What a leader has sent may still arrive after its time: whoever writes for it names the version
    that it has seen.
    """

    def __init__(
        self,
        *,
        identity: str,
        records: Records,
        timing: Timing,
        new_term: Callable[[], Work],
        observer: Observer,
        clock: Clock,
        backoff: Backoff | None = None,
    ) -> None:
        """`clock` should count the time that the machine sleeps, too."""
        self._identity = identity
        self._records = records
        self._timing = timing
        self._new_term = new_term
        self._observer = observer
        self._clock = clock
        self._pace = backoff or Backoff(timing.retry_period, timing.retry_period, jitter=0.2)
        self._sight: Sight | None = None
        self._term: int | None = None
        self._until = _NEVER
        self._problem = ""
        self._stopping = asyncio.Event()

    @property
    def leading(self) -> bool:
        """Tell whether what a leader does may be done now. Ask right before doing it."""
        return self._clock.monotonic() < self._until

    def stop(self) -> None:
        """Let run() end: a leader finishes what is in progress and steps down."""
        self._stopping.set()

    async def run(self) -> None:
        """Take part until stop()."""
        while not self._stopping.is_set():
            await self._campaign()
            if self._stopping.is_set():
                await self._step_down()
            else:
                await self._lead()

    async def _campaign(self) -> None:
        """Look, and claim what may be claimed, until elected or stopped."""
        while not self._stopping.is_set():
            wait = await self._attempt()
            if self.leading:
                return
            with contextlib.suppress(TimeoutError):
                await within(wait, self._stopping.wait(), self._clock)

    async def _lead(self) -> None:
        """Run a term until it is lost, or the process ends."""
        term = self._new_term()
        log(logger, logging.INFO, "leading", replica=self._identity, term=self._term)
        self._observer.leads()
        try:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(term.run(), name="term")
                renewing = tasks.create_task(self._renew(), name="renewal")
                expiring = tasks.create_task(self._expire(), name="expiry")
                stopping = tasks.create_task(self._stopping.wait(), name="end of leading")
                await _first(running, renewing, expiring, stopping)
                if stopping.done():
                    term.stop()
                    await _first(running, renewing, expiring, seconds=DRAIN_SECONDS)
                if not running.done():
                    log(logger, logging.WARNING, "reconciles cut off")
                for task in (running, renewing, expiring, stopping):
                    task.cancel()
            if self._stopping.is_set():
                await self._step_down()
        finally:
            self._until = _NEVER
            holder = self._sight.record.holder if self._sight else ""
            log(logger, logging.INFO, "leading no more", replica=self._identity, seen=holder)

    async def _renew(self) -> None:
        """Renew until the record is somebody else's, or it is too late."""
        wait = self._pace.delay(1)
        while True:
            await self._clock.sleep(wait)
            if not self.leading:
                return
            wait = await self._attempt()
            if not self.leading:
                return

    async def _expire(self) -> None:
        """Return when the renew deadline has passed, whatever a renewal waits for."""
        while (left := self._until - self._clock.monotonic()) > 0:
            await self._clock.sleep(left)
        log(logger, logging.WARNING, "leadership not renewed in time", problem=self._problem)

    async def _attempt(self) -> float:
        """Look unless the record is ours; claim it if it may be; return seconds until the next."""
        try:
            # A request that hangs must leave time for another one.
            limit = self._timing.renew_deadline / 2
            wait = await within(limit, self._looked_and_claimed(), self._clock)
        except (KmmError, TimeoutError) as error:
            self._failed(str(error) or f"no answer in {limit:.1f} s")
            asked = error.retry_after if isinstance(error, TransientError) else None
            return max(self._pace.delay(1), asked or 0.0)
        self._problem = ""
        return wait

    async def _looked_and_claimed(self) -> float:
        if not self.leading:
            await self._look()
        move = self._decide()
        if not isinstance(move, Claim):
            return move.seconds
        try:
            await self._claim(move.record)
        except ChangedError:
            await self._look()
            if not self._is_ours():
                self._until = _NEVER
            return CHANGED_SECONDS
        return self._pace.delay(1)

    def _decide(self) -> "Claim | election.Wait":
        return election.decide(
            self._sight,
            identity=self._identity,
            term=self._term,
            now=self._clock.monotonic(),
            timing=self._timing,
        )

    async def _look(self) -> None:
        record = await self._records.read()
        self._sight = election.seen(self._sight, record, self._clock.monotonic())
        if record is None or record.holder != self._identity:
            # From now on a record with our name is no remains of an earlier life.
            self._term = _NO_TERM if self._term is None else self._term

    async def _claim(self, record: Record) -> None:
        if self._term is not None:
            # Before it is known to be written: it may be, though no answer comes.
            self._term = record.transitions
        sent = self._clock.monotonic()
        written = await self._records.write(record)
        self._sight = Sight(record=written, since=self._clock.monotonic())
        self._term = written.transitions
        self._until = sent + self._timing.renew_deadline

    def _is_ours(self) -> bool:
        record = self._sight.record if self._sight else None
        return record is not None and (record.holder, record.transitions) == (
            self._identity,
            self._term,
        )

    async def _step_down(self) -> None:
        """Leave the record to whoever comes next, without a wait."""
        if self._sight is None or not self.leading:
            return
        self._until = _NEVER
        try:
            await within(RELEASE_SECONDS, self._release(self._sight.record), self._clock)
        except (KmmError, TimeoutError) as error:
            self._failed(str(error) or f"no answer in {RELEASE_SECONDS:.0f} s")

    async def _release(self, record: Record) -> None:
        try:
            await self._records.write(election.released(record))
        except ChangedError:
            # By a renewal of ours that was cut off, perhaps.
            await self._look()
            if self._sight is not None and self._is_ours():
                await self._records.write(election.released(self._sight.record))

    def _failed(self, problem: str) -> None:
        """Say what is wrong with the record once for each reason."""
        if problem != self._problem:
            fields = {"replica": self._identity, "error": problem}
            log(logger, logging.WARNING, "election record not reached", **fields)
        self._problem = problem


async def _first(*tasks: "asyncio.Task[Any]", seconds: float | None = None) -> None:
    """Wait until one of them has ended."""
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
