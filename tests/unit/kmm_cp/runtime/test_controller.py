"""What becomes of a key by what comes of its reconcile."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from kmm_common.backoff import Backoff
from kmm_common.errors import TerminalError, TransientError
from kmm_common.logs import fields_of, log
from kmm_cp.runtime.controller import DONE, Controller, Outcome, Result
from kmm_cp.runtime.queue import Priority
from support.virtualclock import VirtualClock, rest

TIMEOUT = 60.0


async def cancelled_elsewhere() -> None:
    """Await a task that somebody else has cancelled."""
    task = asyncio.create_task(asyncio.sleep(100))
    task.cancel()
    await task


async def fail(error: Exception) -> None:
    raise error


@dataclass(slots=True)
class World:
    """A controller whose reconcile does what a test put up for it, else nothing."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    workers: int = 4
    timeout: float = TIMEOUT
    acts: list[Callable[[], Awaitable[object]]] = field(default_factory=list)
    result: Result = DONE
    turns: list[str] = field(default_factory=list)
    told: list[tuple[str, Outcome, float]] = field(default_factory=list)
    controller: Controller[str] = field(init=False)

    def __post_init__(self) -> None:
        self.controller = Controller(
            "kind",
            self.reconcile,
            clock=self.clock,
            observer=self,
            workers=self.workers,
            timeout=self.timeout,
            backoff=Backoff(1.0, 8.0, jitter=0.0),
        )

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for _, outcome, _ in self.told]

    def reconciled(self, controller: str, outcome: Outcome, seconds: float) -> None:
        self.told.append((controller, outcome, seconds))

    async def reconcile(self, key: str) -> Result:
        self.turns.append(key)
        if self.acts:
            await self.acts.pop(0)()
        return self.result

    def add(self, *keys: str) -> None:
        for key in keys:
            self.controller.queue.add(key)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Run the controller; in the end it must stop by itself."""
        task = asyncio.create_task(self.controller.run())
        yield task
        self.controller.stop()
        await task


async def test_key_that_is_done_is_left_alone() -> None:
    world = World()
    async with world.running():
        world.add("a")
        await world.clock.advance(1000)
    assert (world.turns, world.told) == (["a"], [("kind", Outcome.DONE, 0.0)])


async def test_keys_that_wait_for_nothing_let_the_rest_of_the_program_run() -> None:
    world = World(workers=1)
    world.add(*map(str, range(100)))
    async with world.running():
        done = []
        while len(world.turns) < 100:
            done.append(len(world.turns))
            await asyncio.sleep(0)
        done.append(len(world.turns))
    assert all(after - before <= 1 for before, after in itertools.pairwise(done))


async def test_key_comes_again_when_its_reconcile_asks_for_it() -> None:
    world = World(result=Result(requeue_after=30))
    async with world.running():
        world.add("a")
        await world.clock.advance(29)
        assert world.turns == ["a"]
        await world.clock.advance(31)
    assert world.turns == ["a"] * 3


@pytest.mark.parametrize(
    ("act", "outcome", "message"),
    [
        (lambda: fail(TransientError("away")), Outcome.TRANSIENT, "reconcile failed"),
        (lambda: fail(TimeoutError()), Outcome.TRANSIENT, "reconcile failed"),
        (lambda: fail(ZeroDivisionError("bug")), Outcome.CRASH, "reconcile crashed"),
        (cancelled_elsewhere, Outcome.CRASH, "reconcile crashed"),
    ],
    ids=["transient", "timeout", "crash", "cancelled elsewhere"],
)
async def test_key_that_failed_comes_again_with_growing_pauses_until_it_succeeds(
    act: Callable[[], Awaitable[object]],
    outcome: Outcome,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    world = World(acts=[act] * 3)
    async with world.running():
        world.add("a")
        seen = []
        for _ in range(8):
            await world.clock.advance(1)
            seen.append(len(world.turns))
        await world.clock.advance(1000)
    assert seen == [2, 2, 3, 3, 3, 3, 4, 4]
    assert world.outcomes == [outcome] * 3 + [Outcome.DONE]
    lines = [(record.getMessage(), fields_of(record)) for record in caplog.records]
    assert [text for text, _ in lines if text.startswith("reconcile")] == [message] * 3
    pauses = [fields["retry_in"] for text, fields in lines if text == message]
    assert pauses == [1.0, 2.0, 4.0]


async def test_pauses_begin_anew_after_a_success() -> None:
    acts = [lambda: fail(TransientError("away"))] * 2
    world = World(acts=[*acts])
    async with world.running():
        world.add("a")
        await world.clock.advance(10)
        world.acts.extend(acts)
        world.add("a")
        await world.clock.advance(1)
        assert len(world.turns) == 5


async def test_pause_is_no_shorter_than_the_server_asks_for() -> None:
    world = World(acts=[lambda: fail(TransientError("busy", retry_after=20))])
    async with world.running():
        world.add("a")
        await world.clock.advance(19)
        assert world.turns == ["a"]
        await world.clock.advance(1)
    assert world.turns == ["a", "a"]


async def test_terminal_failure_waits_for_news(caplog: pytest.LogCaptureFixture) -> None:
    world = World(acts=[lambda: fail(TerminalError("wrong field", reason="Invalid"))])
    async with world.running():
        world.add("a")
        await world.clock.advance(10_000)
        assert world.turns == ["a"]
        world.add("a")
        await world.clock.advance(0)
    assert world.outcomes == [Outcome.TERMINAL, Outcome.DONE]
    (failed,) = [each for each in caplog.records if each.getMessage() == "reconcile failed"]
    assert failed.levelno == logging.ERROR
    fields = fields_of(failed)
    assert fields == {
        "reconcile": fields["reconcile"],
        "controller": "kind",
        "key": "a",
        "error": "wrong field",
        "retry_in": None,
    }


async def test_lines_of_one_reconcile_have_an_id_of_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    world = World(workers=2)

    async def speak() -> None:
        log(logging.getLogger("test"), logging.INFO, "one")
        await rest()
        await asyncio.create_task(speak_of_a_part())
        raise TerminalError("no", reason="No")

    async def speak_of_a_part() -> None:
        log(logging.getLogger("test"), logging.INFO, "two")

    world.acts = [speak, speak]
    async with world.running():
        world.add("a", "b")
        await rest()
    ids = [fields_of(record)["reconcile"] for record in caplog.records]
    assert len(ids) == 6
    assert sorted(ids.count(one) for one in set(ids)) == [3, 3]
    log(logging.getLogger("test"), logging.INFO, "outside")
    assert fields_of(caplog.records[-1]) == {}


async def test_reconcile_that_hangs_is_cut_off_and_tried_again() -> None:
    world = World(acts=[asyncio.Event().wait], timeout=0.01)
    async with world.running():
        world.add("a")
        while not world.told:
            await asyncio.sleep(0.01)
        await world.clock.advance(1)
    assert world.outcomes == [Outcome.TRANSIENT, Outcome.DONE]


async def test_crashes_of_all_workers_at_once_stop_no_other_key() -> None:
    world = World(acts=[lambda: fail(ZeroDivisionError()), cancelled_elsewhere] * 4)
    async with world.running():
        world.add(*"abcdefgh")
        await world.clock.advance(0)
        assert sorted(world.turns) == list("abcdefgh")
        await world.clock.advance(1)
    assert sorted(world.turns) == sorted("abcdefgh" * 2)


async def test_key_has_one_worker_while_others_go_on() -> None:
    gate = asyncio.Event()
    world = World(acts=[gate.wait])
    async with world.running():
        world.add("a")
        await rest()
        world.add("a", "b")
        await rest()
        assert world.turns == ["a", "b"]
        gate.set()
        await rest()
    assert world.turns == ["a", "b", "a"]


async def test_only_so_many_keys_are_in_progress_and_fresh_ones_are_next() -> None:
    gate = asyncio.Event()
    world = World(acts=[gate.wait], workers=1)
    async with world.running():
        world.add("first")
        await rest()
        world.controller.queue.add("resync", Priority.RESYNC)
        world.add("fresh")
        await rest()
        assert world.turns == ["first"]
        gate.set()
        await rest()
    assert world.turns == ["first", "fresh", "resync"]


async def test_stop_ends_keys_in_progress_and_begins_none() -> None:
    gate = asyncio.Event()
    world = World(acts=[gate.wait], workers=1)
    async with world.running() as running:
        world.add("a")
        await rest()
        world.add("b")
        world.controller.stop()
        await rest()
        assert not running.done()
        gate.set()
    assert (world.turns, world.outcomes) == (["a"], [Outcome.DONE])


async def test_cancelled_controller_cancels_what_is_in_progress() -> None:
    world = World(acts=[asyncio.Event().wait])
    running = asyncio.create_task(world.controller.run())
    world.add("a")
    await rest()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert world.told == []
    assert world.controller.queue.statistics().in_progress == 0
