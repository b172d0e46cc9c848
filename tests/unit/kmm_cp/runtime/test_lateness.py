"""What is told of an event loop that wakes sleepers late."""

import asyncio

from kmm_cp.runtime.lateness import PERIOD_SECONDS, Lateness
from support.virtualclock import VirtualClock, rest


async def test_sleeper_that_is_woken_late_tells_how_late() -> None:
    clock, told = VirtualClock(), list[float]()
    task = asyncio.create_task(Lateness(told.append, clock=clock).run(), name="lateness")
    await clock.advance(PERIOD_SECONDS)
    assert told == [0.0]
    # The loop is busy: time goes on and nobody is woken.
    clock._now += 2.0
    await clock.advance(0.0)
    assert told == [0.0, 2.0 - PERIOD_SECONDS]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await rest()
