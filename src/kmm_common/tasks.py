"""Where each task of the event loop is, in the log."""

import asyncio
import logging
from collections.abc import Iterator
from types import FrameType
from typing import Any

from kmm_common.logs import log

logger = logging.getLogger(__name__)
# Whoever asks gets an answer, whatever log_level is.
logger.setLevel(logging.INFO)

MOST_FRAMES = 64


def tell_tasks() -> None:
    """Log one line for each task that is not done."""
    tasks = sorted(asyncio.all_tasks(), key=asyncio.Task.get_name)
    for task in tasks:
        log(logger, logging.INFO, "task", name=task.get_name(), stack=[*_places(task)])
    log(logger, logging.INFO, "tasks told", tasks=len(tasks))


def function(frame: FrameType) -> str:
    """Return module.function of a frame."""
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}"


def _places(task: asyncio.Task[Any]) -> Iterator[str]:
    """Yield where a task waits, from its own coroutine to what that waits for in the end.

    Task.get_stack() has the first of them only.
    """
    awaited: Any = task.get_coro()
    for _ in range(MOST_FRAMES):
        frame = _first(awaited, "cr_frame", "gi_frame", "ag_frame")
        if frame is None:
            return
        yield f"{function(frame)}:{frame.f_lineno}"
        awaited = _first(awaited, "cr_await", "gi_yieldfrom", "ag_await")


def _first(holder: Any, *names: str) -> Any:
    found = (getattr(holder, name, None) for name in names)
    return next((each for each in found if each is not None), None)
