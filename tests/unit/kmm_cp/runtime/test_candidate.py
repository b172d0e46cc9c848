"""Candidates over one record: who leads when, on virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from kmm_common.errors import TransientError
from kmm_common.logs import fields_of
from kmm_cp.runtime.candidate import DRAIN_SECONDS, Candidate
from kmm_cp.runtime.election import ChangedError, Record, Timing
from support.virtualclock import VirtualClock, rest

TIMING = Timing()
STEP = 0.5
"""Seconds between two looks of a test."""


@dataclass
class Shared:
    """The record at a server: every write is checked against the version that was seen."""

    record: Record | None = None
    version: int = 0
    writes: list[str] = field(default_factory=list)
    """Who wrote."""

    def put(self, record: Record | None) -> None:
        self.version += 1
        self.record = record and replace(record, stamp=str(self.version))


@dataclass
class Way:
    """runtime.candidate.Records: a replica's way to the server, which a test may spoil."""

    shared: Shared
    name: str
    seen: int = 0
    cut: bool = False
    """Every request fails."""
    hangs: bool = False
    loses_answers: bool = False
    retry_after: float | None = None

    async def read(self) -> Record | None:
        await self._travel()
        self.seen = self.shared.version
        return self.shared.record

    async def write(self, record: Record) -> Record:
        await self._travel()
        if self.seen != self.shared.version:
            raise ChangedError("conflict")
        self.shared.put(record)
        self.shared.writes.append(self.name)
        if self.loses_answers:
            raise TransientError("connection lost")
        self.seen = self.shared.version
        assert self.shared.record is not None
        return self.shared.record

    async def _travel(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.cut:
            raise TransientError("no connection", retry_after=self.retry_after)
        await asyncio.sleep(0)


class Term:
    """One term; by default it ends when it is told to."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.running = self.told = False
        self._stubborn = stubborn
        self._stop = asyncio.Event()

    async def run(self) -> None:
        self.running = True
        try:
            await self._stop.wait()
            if self._stubborn:
                await asyncio.Event().wait()
        finally:
            self.running = False

    def stop(self) -> None:
        self.told = True
        self._stop.set()


class Replica:
    """A candidate and the terms it has had."""

    def __init__(
        self, name: str, shared: Shared, clock: VirtualClock, *, stubborn: bool = False
    ) -> None:
        self.name, self.way = name, Way(shared, name)
        self.terms: list[Term] = []
        self.told: list[str] = []
        self._stubborn = stubborn
        self.candidate = Candidate(
            identity=name,
            records=self.way,
            timing=TIMING,
            new_term=self._new_term,
            observer=self,
            clock=clock,
        )
        self.task: asyncio.Task[None] | None = None

    @property
    def works(self) -> bool:
        """Tell whether it does what only a leader does."""
        return any(term.running for term in self.terms)

    def leads(self) -> None:
        self.told.append("leads")

    def start(self) -> None:
        self.task = asyncio.create_task(self.candidate.run(), name=self.name)

    async def kill(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait([self.task])

    def _new_term(self) -> Term:
        self.terms.append(Term(stubborn=self._stubborn))
        return self.terms[-1]


class World:
    """Replicas a and b; at no moment do both lead."""

    def __init__(self, **options: Any) -> None:
        self.clock, self.shared = VirtualClock(), Shared()
        self.a = Replica("a", self.shared, self.clock, **options)
        self.b = Replica("b", self.shared, self.clock)
        self.gaps: list[float] = []

    @property
    def leader(self) -> str:
        leading = [each.name for each in (self.a, self.b) if each.candidate.leading]
        assert len(leading) <= 1, "two leaders"
        assert {each.name for each in (self.a, self.b) if each.works} <= set(leading)
        return next(iter(leading), "")

    async def until(self, holds: Callable[[], bool], *, most: float) -> float:
        """Let time pass until something holds; return how long it took. Look all the time."""
        began = self.clock.monotonic()
        while not holds():
            assert self.clock.monotonic() - began <= most
            await self.clock.advance(STEP)
            _ = self.leader
        return self.clock.monotonic() - began

    @asynccontextmanager
    async def led_by_a(self) -> AsyncIterator[None]:
        """Run both, a first."""
        self.a.start()
        await rest()
        self.b.start()
        await self.clock.advance(7)
        assert self.leader == "a"
        yield
        for each in (self.a, self.b):
            await each.kill()


async def test_one_leads_and_the_other_waits_as_long_as_it_renews() -> None:
    world = World()
    async with world.led_by_a():
        await world.until(lambda: world.clock.monotonic() > 30, most=60)
        assert world.leader == "a"
        assert set(world.shared.writes) == {"a"}
        assert 12 <= len(world.shared.writes) <= 20
        assert world.shared.record is not None
        assert world.shared.record.transitions == 0


async def test_killed_leader_is_followed_within_its_duration_and_one_look() -> None:
    world = World()
    async with world.led_by_a():
        await world.a.kill()
        gap = await world.until(lambda: world.leader == "b", most=20)
        assert gap <= TIMING.duration + TIMING.retry_period + STEP
        assert world.shared.record is not None
        assert world.shared.record.transitions == 1


async def test_leader_that_ends_is_followed_at_the_next_look() -> None:
    world = World()
    async with world.led_by_a():
        world.a.candidate.stop()
        await rest()
        assert world.a.terms[0].told
        assert not world.a.works
        assert world.shared.record is not None
        assert world.shared.record.holder == ""
        gap = await world.until(lambda: world.leader == "b", most=20)
        assert gap <= TIMING.retry_period + STEP
        assert world.a.told == ["leads"]


async def test_reconcile_that_does_not_end_delays_the_next_leader_by_seconds_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmm_cp.runtime.candidate.DRAIN_SECONDS", 0.01)
    assert DRAIN_SECONDS + TIMING.retry_period < 5
    world = World(stubborn=True)
    async with world.led_by_a():
        world.a.candidate.stop()
        await asyncio.sleep(0.1)
        await world.until(lambda: world.leader == "b", most=TIMING.retry_period + STEP)
        assert not world.a.works
    assert "reconciles cut off" in [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("fault", ["cut", "hangs", "loses_answers"])
async def test_leader_without_the_server_stops_before_another_begins(fault: str) -> None:
    world = World()
    async with world.led_by_a():
        setattr(world.a.way, fault, True)
        if fault == "loses_answers":
            # Its writes arrive, so nobody else may lead, and it cannot know.
            await world.until(lambda: not world.a.works, most=TIMING.renew_deadline + STEP)
            assert world.leader == ""
            return
        await world.until(lambda: not world.a.works, most=TIMING.renew_deadline + STEP)
        assert world.leader == ""
        gap = await world.until(lambda: world.leader == "b", most=TIMING.duration)
        assert gap > 0
        setattr(world.a.way, fault, False)
        await world.clock.advance(20)
        assert world.leader == "b"
        assert world.a.told == ["leads"]


async def test_failures_that_are_over_in_time_end_no_term() -> None:
    world = World()
    async with world.led_by_a():
        for fault in ("cut", "hangs"):
            setattr(world.a.way, fault, True)
            await world.clock.advance(TIMING.renew_deadline / 2)
            setattr(world.a.way, fault, False)
            await world.clock.advance(TIMING.renew_deadline)
        assert world.leader == "a"
        assert world.a.told == ["leads"]


async def test_leader_alone_leads_again_as_soon_as_the_server_is_back() -> None:
    world = World()
    world.a.start()
    await world.clock.advance(7)
    world.a.way.cut = True
    await world.clock.advance(60)
    assert not world.a.works
    world.a.way.cut = False
    await world.until(lambda: world.a.works, most=TIMING.retry_period + STEP)
    assert len(world.a.terms) == 2
    await world.a.kill()


async def test_server_that_has_no_time_is_asked_when_it_says() -> None:
    world = World()
    world.b.way.cut, world.b.way.retry_after = True, 7.0
    world.b.start()
    await rest()
    world.b.way.cut = False
    await world.clock.advance(6.9)
    assert not world.b.works
    await world.clock.advance(0.2)
    assert world.b.works
    await world.b.kill()


async def test_leader_that_was_frozen_knows_it_before_it_does_anything() -> None:
    world = World()
    async with world.led_by_a():
        # Nothing of a runs, as after SIGSTOP; then all of it at once.
        world.clock._now += TIMING.renew_deadline
        assert not world.a.candidate.leading
        await world.clock.advance(0.1)
        assert not world.a.terms[0].running
        _ = world.leader


async def test_record_that_is_deleted_comes_back_with_the_same_leader() -> None:
    world = World()
    async with world.led_by_a():
        for _ in range(5):
            world.shared.put(None)
            await world.clock.advance(3)
        assert world.leader == "a"
        assert world.a.told == ["leads"]
        assert world.shared.record is not None


async def test_record_that_is_deleted_with_its_leader_gone_locks_nobody_out() -> None:
    world = World()
    async with world.led_by_a():
        await world.a.kill()
        world.shared.put(None)
        await world.until(lambda: world.leader == "b", most=TIMING.duration + 2)


async def test_change_of_the_record_by_somebody_else_ends_no_term() -> None:
    world = World()
    async with world.led_by_a():
        for _ in range(5):
            # As kubectl annotate does.
            world.shared.version += 1
            await world.clock.advance(1.3)
        assert world.leader == "a"
        assert world.a.told == ["leads"]


async def test_leader_whose_record_was_taken_from_it_stops_at_its_next_renewal() -> None:
    world = World()
    async with world.led_by_a():
        world.shared.put(Record(holder="c", duration=15.0, transitions=9))
        await world.until(lambda: not world.a.works, most=TIMING.retry_period + STEP)
        await world.until(lambda: world.leader in ("a", "b"), most=17)
        assert world.shared.record is not None
        assert world.shared.record.transitions == 10


async def test_replica_that_was_killed_and_is_back_leads_at_once() -> None:
    world = World()
    async with world.led_by_a():
        await world.a.kill()
        again = Replica("a", world.shared, world.clock)
        again.start()
        await rest()
        assert again.works
        assert world.shared.record is not None
        assert world.shared.record.transitions == 1
        await again.kill()


async def test_two_of_one_name_do_not_take_turns() -> None:
    world = World()
    async with world.led_by_a():
        twin = Replica("a", world.shared, world.clock)
        twin.start()
        await world.until(lambda: not world.a.works, most=TIMING.retry_period + STEP)
        await world.clock.advance(40)
        assert twin.works
        assert (len(twin.terms), len(world.a.terms)) == (1, 1)
        await twin.kill()


async def test_answer_that_was_lost_does_not_lock_its_own_candidate_out() -> None:
    world = World()
    world.a.way.loses_answers = True
    world.a.start()
    await rest()
    assert not world.a.works
    world.a.way.loses_answers = False
    await world.until(lambda: world.a.works, most=TIMING.retry_period + STEP)
    await world.a.kill()


async def test_release_is_made_though_somebody_touched_the_record() -> None:
    world = World()
    async with world.led_by_a():
        world.shared.version += 1
        world.a.candidate.stop()
        await rest()
        assert world.shared.record is not None
        assert world.shared.record.holder == ""


async def test_stop_before_there_is_a_leader_ends_at_once() -> None:
    world = World()
    async with world.led_by_a():
        assert world.b.task is not None
        world.b.candidate.stop()
        await rest()
        assert world.b.task.done()
        assert set(world.shared.writes) == {"a"}


async def test_term_that_breaks_ends_the_process() -> None:
    world = World()

    class Broken(Term):
        async def run(self) -> None:
            raise ZeroDivisionError

    world.a._new_term = Broken  # type: ignore[method-assign]
    world.a.candidate._new_term = Broken
    with pytest.raises(ExceptionGroup) as caught:
        await world.a.candidate.run()
    assert caught.group_contains(ZeroDivisionError)
    assert not world.a.candidate.leading


async def test_what_is_wrong_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.a.way.cut = True
    world.a.start()
    await world.clock.advance(30)
    told = [each for each in caplog.records if each.getMessage() == "election record not reached"]
    assert [fields_of(each)["error"] for each in told] == ["no connection"]
    await world.a.kill()
