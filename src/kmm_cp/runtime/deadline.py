"""Awaits something for so long by a clock that tests can move."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from kmm_common.clock import Clock

T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T], clock: Clock) -> T:
    """Return what comes of the work; TimeoutError, and it is cancelled, if it takes longer."""
    task = asyncio.create_task(work, name="bounded work")
    timer = asyncio.create_task(clock.sleep(seconds), name="deadline")
    try:
        await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        task.cancel()
        timer.cancel()
        await asyncio.gather(task, timer, return_exceptions=True)
