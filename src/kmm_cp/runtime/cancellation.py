"""Whose cancellation it is: ours, or that of something we awaited."""

import asyncio


def being_cancelled() -> bool:
    """Tell whether somebody asked the current task to end.

    A task that awaits another, cancelled one sees the same CancelledError without being asked; it
    would end in silence, for a TaskGroup takes no notice of a cancelled child.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
