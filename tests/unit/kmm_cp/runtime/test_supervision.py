"""What becomes of a service that breaks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from kmm_common.logs import fields_of
from kmm_cp.runtime.supervision import STEADY_SECONDS, kept_up
from support.parts import Part
from support.virtualclock import VirtualClock, rest


@asynccontextmanager
async def running(service: Part, clock: VirtualClock) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(kept_up(service, clock))
    await rest()
    yield task
    task.cancel()
    await asyncio.wait([task])


async def crash() -> None:
    raise ZeroDivisionError


async def cancelled_elsewhere() -> None:
    task = asyncio.create_task(asyncio.sleep(100))
    task.cancel()
    await task


@pytest.mark.parametrize("act", [crash, cancelled_elsewhere])
async def test_service_that_breaks_is_run_again_after_a_pause(
    act: Callable[[], Awaitable[object]], caplog: pytest.LogCaptureFixture
) -> None:
    service, clock = Part("service", act, act), VirtualClock()
    async with running(service, clock):
        assert service.runs == 1
        await clock.advance(10)
        assert service.runs == 3
    crashes = [each for each in caplog.records if each.getMessage() == "service crashed"]
    pauses = [fields_of(each)["retry_in"] for each in crashes]
    assert pauses[0] <= 0.5 < 0.8 <= pauses[1] <= 1.0


async def test_service_that_ran_for_long_is_run_again_soon() -> None:
    service, clock = Part("service"), VirtualClock()

    async def crash_late() -> None:
        await clock.sleep(STEADY_SECONDS + 1)
        raise ZeroDivisionError

    service.acts = [*[crash] * 8, crash_late]
    async with running(service, clock):
        await clock.advance(120)
        assert service.runs == 9
        await clock.advance(STEADY_SECONDS + 2)
        assert service.runs == 10


async def test_service_that_ends_well_is_not_run_again() -> None:
    service, clock = Part("service", rest), VirtualClock()
    async with running(service, clock) as task:
        await clock.advance(100)
        assert task.done()
    assert service.runs == 1
