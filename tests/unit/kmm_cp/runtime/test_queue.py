"""Which key a worker is given, and when."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmm_common.backoff import Backoff
from kmm_cp.runtime.queue import ClosedError, Priority, Queue, Statistics
from support.virtualclock import VirtualClock, rest

FRESH, RESYNC = Priority.FRESH, Priority.RESYNC
EXACT = Backoff(1.0, 8.0, jitter=0.0)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def queue(clock: VirtualClock) -> Queue[str]:
    return Queue(clock, EXACT)


async def taken(queue: Queue[str]) -> list[str]:
    """Take, as many workers would, all that is handed out now."""
    keys = []
    while queue.statistics().ready:
        keys.append(await queue.get())
    return keys


async def turns(queue: Queue[str]) -> list[str]:
    """Take and end, one after the other, all that is handed out now."""
    keys = []
    while queue.statistics().ready:
        keys.append(await queue.get())
        queue.done(keys[-1])
    return keys


async def test_key_added_several_times_is_handed_out_once(queue: Queue[str]) -> None:
    for key in "abaab":
        queue.add(key)
    assert await turns(queue) == ["a", "b"]


async def test_fresh_changes_go_before_resync_each_in_the_order_of_coming(
    queue: Queue[str],
) -> None:
    for key, priority in [("a", RESYNC), ("b", RESYNC), ("c", FRESH), ("d", FRESH)]:
        queue.add(key, priority)
    assert await turns(queue) == ["c", "d", "a", "b"]


async def test_resync_that_fails_stays_behind_what_is_fresh(
    queue: Queue[str], clock: VirtualClock
) -> None:
    for key, priority in [("old", RESYNC), ("new", FRESH)]:
        queue.add(key, priority)
        assert await queue.get() == key
        queue.retry(key)
        queue.done(key)
    await clock.advance(1.0)
    assert [await queue.get(), await queue.get()] == ["new", "old"]


async def test_fresh_change_lifts_a_key_out_of_resync(queue: Queue[str]) -> None:
    for key, priority in [("a", FRESH), ("b", RESYNC), ("b", FRESH), ("c", RESYNC)]:
        queue.add(key, priority)
    assert await turns(queue) == ["a", "b", "c"]


@pytest.mark.parametrize("priority", [FRESH, RESYNC])
async def test_key_that_waits_keeps_its_place_when_added_again(
    queue: Queue[str], priority: Priority
) -> None:
    for key in "ab":
        queue.add(key, priority)
    queue.add("a", RESYNC)
    assert await turns(queue) == ["a", "b"]


async def test_key_in_progress_is_handed_to_no_other_worker(queue: Queue[str]) -> None:
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("b")
    assert await taken(queue) == ["b"]
    assert queue.statistics() == Statistics(ready=0, delayed=0, in_progress=2)


async def test_key_added_several_times_while_in_progress_runs_once_more(
    queue: Queue[str],
) -> None:
    queue.add("a")
    await queue.get()
    for _ in range(3):
        queue.add("a")
    queue.done("a")
    assert await turns(queue) == ["a"]


@pytest.mark.parametrize(
    ("priorities", "expected"),
    [([RESYNC], ["b", "a"]), ([RESYNC, FRESH], ["a", "b"]), ([FRESH, RESYNC], ["a", "b"])],
)
async def test_key_runs_once_more_with_the_best_priority_it_was_added_with(
    queue: Queue[str], priorities: list[Priority], expected: list[str]
) -> None:
    queue.add("a")
    await queue.get()
    for priority in priorities:
        queue.add("a", priority)
    queue.done("a")
    queue.add("b", FRESH)
    assert await turns(queue) == expected


async def test_worker_waits_until_a_key_is_added(queue: Queue[str]) -> None:
    worker = asyncio.create_task(queue.get())
    await rest()
    assert not worker.done()
    queue.add("a")
    assert await worker == "a"


async def test_every_waiting_worker_gets_a_key_of_its_own(queue: Queue[str]) -> None:
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await rest()
    for key in "abc":
        queue.add(key)
    assert sorted(await asyncio.gather(*workers)) == ["a", "b", "c"]


async def test_worker_that_gives_up_waiting_takes_no_key_with_it(
    queue: Queue[str], clock: VirtualClock
) -> None:
    queue.add_after("later", 10)
    worker = asyncio.create_task(queue.get())
    await rest()
    worker.cancel()
    await asyncio.wait([worker])
    assert worker.cancelled()
    queue.add("a")
    assert await queue.get() == "a"


# Time.


async def test_delayed_key_is_handed_out_when_it_is_due(
    queue: Queue[str], clock: VirtualClock
) -> None:
    queue.add_after("a", 10)
    worker = asyncio.create_task(queue.get())
    await clock.advance(9.9)
    assert not worker.done()
    await clock.advance(0.2)
    assert await worker == "a"
    assert queue.statistics() == Statistics(ready=0, delayed=0, in_progress=1)


@pytest.mark.parametrize(("delays", "due"), [((10, 5), 5), ((5, 10), 5)])
async def test_earlier_delay_counts(
    queue: Queue[str], clock: VirtualClock, delays: tuple[float, float], due: float
) -> None:
    for delay in delays:
        queue.add_after("a", delay)
    worker = asyncio.create_task(queue.get())
    await clock.advance(due)
    assert await worker == "a"
    queue.done("a")
    await clock.advance(100)
    assert queue.statistics() == Statistics(ready=0, delayed=0, in_progress=0)


async def test_earlier_delay_wakes_a_worker_that_waits_for_a_later_one(
    queue: Queue[str], clock: VirtualClock
) -> None:
    queue.add_after("late", 10)
    worker = asyncio.create_task(queue.get())
    await rest()
    queue.add_after("early", 1)
    await clock.advance(1)
    assert await worker == "early"


async def test_change_overtakes_a_delay(queue: Queue[str], clock: VirtualClock) -> None:
    queue.add_after("a", 10)
    queue.add("a")
    assert await turns(queue) == ["a"]
    await clock.advance(20)
    assert queue.statistics() == Statistics(ready=0, delayed=0, in_progress=0)


async def test_delay_of_a_key_that_waits_already_adds_nothing(queue: Queue[str]) -> None:
    queue.add("a")
    queue.add_after("a", 10)
    assert queue.statistics() == Statistics(ready=1, delayed=0, in_progress=0)


async def test_key_that_gets_due_in_progress_runs_once_more(
    queue: Queue[str], clock: VirtualClock
) -> None:
    queue.add("a")
    await queue.get()
    queue.add_after("a", 1)
    other = asyncio.create_task(queue.get())
    await clock.advance(2)
    assert not other.done()
    queue.done("a")
    assert await other == "a"


async def test_overtaken_delays_take_no_memory(queue: Queue[str], clock: VirtualClock) -> None:
    queue.add_after("steady", 500)
    for _ in range(1000):
        queue.add_after("a", 1000)
        queue.add("a")
        assert await turns(queue) == ["a"]
    assert len(queue._timers) < 100
    worker = asyncio.create_task(queue.get())
    await clock.advance(500)
    assert await worker == "steady"


# Failures.


async def test_backoff_doubles_up_to_its_cap_and_begins_anew_after_success(
    queue: Queue[str],
) -> None:
    assert [queue.retry("a") for _ in range(5)] == [1, 2, 4, 8, 8]
    assert queue.retry("b") == 1
    queue.forget("a")
    assert queue.retry("a") == 1


async def test_pause_that_a_server_asks_for_is_the_least(
    queue: Queue[str], clock: VirtualClock
) -> None:
    assert queue.retry("a", at_least=30) == 30
    worker = asyncio.create_task(queue.get())
    await clock.advance(29)
    assert not worker.done()
    await clock.advance(1)
    assert await worker == "a"


async def test_usual_backoff_goes_from_milliseconds_to_five_minutes_with_jitter(
    clock: VirtualClock,
) -> None:
    queue: Queue[str] = Queue(clock)
    delays = [queue.retry("a") for _ in range(40)]
    assert 0.004 <= delays[0] <= 0.005
    assert all(240 <= delay <= 300 for delay in delays[20:])
    assert len(set(delays[20:])) > 1


# The end.


@pytest.fixture
async def closed(queue: Queue[str]) -> AsyncIterator[Queue[str]]:
    queue.add("in progress")
    await queue.get()
    queue.add("never")
    queue.shut_down()
    yield queue


async def test_closed_queue_hands_nothing_out_and_takes_nothing_in(closed: Queue[str]) -> None:
    closed.add("a")
    closed.add("in progress")
    closed.add_after("b", 1)
    closed.retry("c")
    closed.done("in progress")
    with pytest.raises(ClosedError):
        await closed.get()
    assert closed.statistics() == Statistics(ready=0, delayed=0, in_progress=0)


async def test_closing_wakes_every_worker(queue: Queue[str]) -> None:
    workers = [asyncio.create_task(queue.get()) for _ in range(2)]
    await rest()
    queue.shut_down()
    results = await asyncio.gather(*workers, return_exceptions=True)
    assert [type(result) for result in results] == [ClosedError, ClosedError]


# Against a model.


class Model:
    """What a queue should hold, said as simply as possible."""

    def __init__(self) -> None:
        self.ready: dict[Priority, deque[str]] = {FRESH: deque(), RESYNC: deque()}
        self.again: dict[str, Priority] = {}
        self.working: list[str] = []
        self.due: dict[str, float] = {}

    def add(self, key: str, priority: Priority) -> None:
        self.due.pop(key, None)
        if key in self.working:
            self.again[key] = min(priority, self.again.get(key, RESYNC))
        elif key in self.ready[RESYNC] and priority is FRESH:
            self.ready[RESYNC].remove(key)
            self.ready[FRESH].append(key)
        elif key not in self.ready[FRESH] and key not in self.ready[RESYNC]:
            self.ready[priority].append(key)

    def add_after(self, key: str, due: float) -> None:
        if key not in self.ready[FRESH] and key not in self.ready[RESYNC]:
            self.due[key] = min(due, self.due.get(key, due))

    def pass_time(self, now: float) -> None:
        for key in sorted(self.due, key=lambda key: self.due[key]):
            if self.due[key] <= now:
                self.add(key, FRESH)

    def next(self) -> str | None:
        for keys in self.ready.values():
            if keys:
                self.working.append(keys.popleft())
                return self.working[-1]
        return None

    def done(self, key: str) -> None:
        self.working.remove(key)
        if key in self.again:
            self.add(key, self.again.pop(key))


keys = st.sampled_from("abc")
steps = st.one_of(
    st.tuples(st.just("add"), keys, st.sampled_from(Priority)),
    # Binary fractions that differ: no two keys are due in the same moment.
    st.tuples(st.just("later"), keys, st.integers(1, 6)),
    st.tuples(st.just("wait"), st.integers(1, 4)),
    st.tuples(st.just("get")),
    st.tuples(st.just("done"), st.integers(0, 2)),
)


@settings(deadline=None)
@given(st.lists(steps, max_size=40))
def test_queue_does_what_a_simple_model_of_it_does(history: list[tuple[Any, ...]]) -> None:
    asyncio.run(follow(history))


async def follow(history: list[tuple[Any, ...]]) -> None:
    clock = VirtualClock()
    queue: Queue[str] = Queue(clock, EXACT)
    model = Model()
    for number, step in enumerate(history):
        match step:
            case "add", key, priority:
                queue.add(key, priority)
                model.add(key, priority)
            case "later", key, seconds:
                delay = seconds + number / 1024
                queue.add_after(key, delay)
                model.add_after(key, clock.monotonic() + delay)
            case "wait", seconds:
                await clock.advance(seconds)
            case ("get",):
                model.pass_time(clock.monotonic())
                await hand_out(queue, model.next())
            case "done", index if index < len(model.working):
                key = model.working[index]
                queue.done(key)
                model.done(key)
        assert queue.statistics() == Statistics(
            ready=sum(map(len, model.ready.values())),
            delayed=len(model.due),
            in_progress=len(model.working),
        )


async def hand_out(queue: Queue[str], expected: str | None) -> None:
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    if expected is None:
        assert not worker.done()
        worker.cancel()
        await asyncio.wait([worker])
    else:
        assert await worker == expected
