"""What every tier shares: no test may leave a task behind, or fail as the machine is busy."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator

import pytest

from support.verdict import TALLY

pytest_plugins = ["support.onkubelets"]


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the history checker made of the whole run."""
    verdict = TALLY.verdict()
    if verdict:
        terminalreporter.write_line(verdict)


def pytest_configure() -> None:
    """Keep asyncio's word on slow steps out of what tests find logged: others slow them down."""
    logging.getLogger("asyncio").addFilter(
        lambda record: record.msg != "Executing %s took %.3f seconds"
    )
