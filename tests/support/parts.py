"""Caches and services of a process, as a test tells them to behave."""

import asyncio
from collections.abc import Awaitable, Callable


class Part:
    """Does what it is told for each run, then waits for its end."""

    def __init__(self, name: str, *acts: Callable[[], Awaitable[object]]) -> None:
        self.name = name
        self.synced = asyncio.Event()
        self.acts = list(acts)
        self.runs = 0
        self.cancelled = False

    async def run(self) -> None:
        self.runs += 1
        if self.acts:
            await self.acts.pop(0)()
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
