import asyncio

import pytest

from kmm_common.oci.cancellation import Cancellation, CancelledInThreadError, run_in_thread
from kmm_common.oci.flights import Flights


class Work:
    """Counts its runs and ends when told."""

    def __init__(self) -> None:
        self.runs = 0
        self.cancelled = 0
        self.end = asyncio.Event()

    async def __call__(self) -> int:
        self.runs += 1
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.runs


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_work_under_one_key_runs_once_and_again_when_it_is_over():
    flights, work = Flights[str, int]("test"), Work()
    both = asyncio.gather(flights.join("a", work), flights.join("a", work))
    await turns()
    work.end.set()
    assert list(await both) == [1, 1]
    assert await flights.join("a", work) == 2


async def test_work_under_two_keys_runs_twice():
    flights, work = Flights[str, int]("test"), Work()
    work.end.set()
    await asyncio.gather(flights.join("a", work), flights.join("b", work))
    assert work.runs == 2


async def test_work_goes_on_until_its_last_waiter_leaves():
    flights, work = Flights[str, int]("test"), Work()
    waiters = [asyncio.create_task(flights.join("a", work)) for _ in range(2)]
    await turns()
    waiters[0].cancel()
    await turns()
    assert work.cancelled == 0
    waiters[1].cancel()
    await asyncio.wait(waiters)
    assert work.cancelled == 1


async def test_a_failure_reaches_every_waiter_and_is_not_kept():
    flights = Flights[str, int]("test")
    fails = [True]

    async def work() -> int:
        await asyncio.sleep(0)
        if fails:
            raise LookupError
        return 1

    results = await asyncio.gather(
        flights.join("a", work), flights.join("a", work), return_exceptions=True
    )
    assert [type(result) for result in results] == [LookupError, LookupError]
    fails.clear()
    assert await flights.join("a", work) == 1


async def test_a_thread_gives_its_result_or_its_error():
    assert await run_in_thread(lambda _: 5, name="t", deadline=5) == 5
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(lambda _: 1 // 0, name="t", deadline=5)


async def test_a_thread_is_told_when_its_task_is_cancelled_or_its_time_is_over():
    ended: list[str] = []
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def work(cancellation: Cancellation) -> None:
        try:
            while True:
                cancellation.check()
        except CancelledInThreadError:
            ended.append("told")
            loop.call_soon_threadsafe(done.set)

    with pytest.raises(TimeoutError):
        await run_in_thread(work, name="t", deadline=0.01)
    await done.wait()
    done.clear()
    task = asyncio.create_task(run_in_thread(work, name="t", deadline=60))
    await turns()
    task.cancel()
    await done.wait()
    assert ended == ["told", "told"]
    assert task.cancelled()
