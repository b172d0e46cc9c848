"""What becomes of a key whose reconcile fails, through the controller that runs it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from kmm_common.backoff import Backoff
from kmm_cp.kube.errors import ConflictError, NotFoundError
from kmm_cp.reconcilers.gone import unless_gone
from kmm_cp.runtime.controller import DONE, Controller, Outcome, Result
from support.virtualclock import VirtualClock


class Outcomes(list[Outcome]):
    """A controller's observer."""

    def reconciled(self, controller: str, outcome: Outcome, seconds: float) -> None:
        self.append(outcome)


async def turns(
    reconcile: Callable[[str], Coroutine[Any, Any, Result]], seconds: float = 60
) -> Outcomes:
    """Run a key through a controller for a while."""
    clock, outcomes = VirtualClock(), Outcomes()
    backoff = Backoff(1.0, 10.0, jitter=0.0)
    controller = Controller(
        "test", unless_gone(reconcile), clock=clock, observer=outcomes, backoff=backoff
    )
    running = asyncio.create_task(controller.run(), name="controller")
    controller.queue.add("key")
    await clock.advance(seconds)
    controller.stop()
    await running
    return outcomes


def failing_first(error: Exception) -> Callable[[str], Coroutine[Any, Any, Result]]:
    errors = [error]

    async def reconcile(_: str) -> Result:
        if errors:
            raise errors.pop()
        return DONE

    return reconcile


async def test_conflict_is_reconciled_again() -> None:
    conflict = ConflictError("changed", reason="Conflict")
    assert await turns(failing_first(conflict)) == [Outcome.TRANSIENT, Outcome.DONE]


async def test_object_that_is_gone_is_done_with_and_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    gone = NotFoundError("nodes/a: not found", reason="NotFound")
    assert await turns(failing_first(gone)) == [Outcome.DONE]
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "object went meanwhile")
    ]


async def test_what_was_asked_for_is_passed_on() -> None:
    left = [Result(requeue_after=20.0)]

    async def reconcile(_: str) -> Result:
        return left.pop() if left else DONE

    assert await turns(reconcile) == [Outcome.DONE, Outcome.DONE]
