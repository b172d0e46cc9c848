"""What every tier shares: no test may leave a task behind."""

import asyncio
import inspect
from collections.abc import AsyncIterator

import pytest


@pytest.fixture
async def no_leftover_tasks() -> AsyncIterator[None]:
    """Fail a test that ends while a task it started is still running."""
    before = asyncio.all_tasks()
    yield
    # A task that was cancelled in the test's last line needs a turn of the loop to end.
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks left behind: {sorted(task.get_name() for task in left)}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Watch over every asynchronous test."""
    for item in items:
        function = getattr(item, "function", None)
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(function):
            # First in, last out: after the fixtures that stop what they started.
            item.fixturenames.insert(0, "no_leftover_tasks")
