"""What the selector tells of the event loop's turns."""

import asyncio
from collections.abc import Iterator
from contextlib import closing

from kmm_common.clock import SystemClock
from kmm_daemon.metrics import Metrics
from kmm_daemon.turns import TimedSelector


class ReadClock(SystemClock):
    """Shows these times, one after the other, to whoever looks."""

    def __init__(self, *times: float) -> None:
        self._times = iter(times)

    def monotonic(self) -> float:
        return next(self._times)


class SetClock(SystemClock):
    """Shows the time that a test sets."""

    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


def test_turn_is_what_lies_between_two_waits_and_the_wait_is_not() -> None:
    wait_of_100 = (13.0, 113.0)
    told = list[float]()
    with closing(TimedSelector(clock=ReadClock(10.0, *wait_of_100, 113.5, 114.0))) as selector:
        selector.on_turn(told.append)
        for _ in range(3):
            selector.select(0)
    assert told == [3.0, 0.5]


def test_callback_that_blocks_is_seen_in_the_metrics_with_its_whole_time() -> None:
    clock, metrics = SetClock(), Metrics(version="1")
    selector = TimedSelector(clock=clock)

    async def block() -> None:
        selector.on_turn(metrics.turn)
        clock.seconds += 5.0
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(block())
    counts = dict(_buckets(metrics))
    assert counts["+Inf"] == counts["10.0"] == counts["1.0"] + 1
    assert "kmm_daemon_event_loop_stall_seconds_sum 5.0" in metrics.exposition().decode()


def _buckets(metrics: Metrics) -> Iterator[tuple[str, float]]:
    for line in metrics.exposition().decode().splitlines():
        if line.startswith("kmm_daemon_event_loop_stall_seconds_bucket"):
            yield line.split('"')[1], float(line.rpartition(" ")[2])
