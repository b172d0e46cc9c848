"""Work that several tasks want at once is done once."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


@dataclass(slots=True)
class _Flight(Generic[Result]):
    task: asyncio.Task[Result]
    waiters: int = 0


class Flights(Generic[Key, Result]):
    """Shares running work by key. The waiters own it: it is cancelled when the last one leaves."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._flying: dict[Key, _Flight[Result]] = {}

    async def join(self, key: Key, work: Callable[[], Awaitable[Result]]) -> Result:
        """Return the result of the work under this key, started here if nobody has."""
        flight = self._flying.get(key)
        if flight is None:
            flight = self._start(key, work)
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0:
                await self._land(key, flight)

    def _start(self, key: Key, work: Callable[[], Awaitable[Result]]) -> _Flight[Result]:
        async def fly() -> Result:
            return await work()

        task = asyncio.get_running_loop().create_task(fly(), name=f"{self._name} {key}")
        flight = self._flying[key] = _Flight(task)
        return flight

    async def _land(self, key: Key, flight: _Flight[Result]) -> None:
        if self._flying.get(key) is flight:
            del self._flying[key]
        flight.task.cancel()
        await asyncio.wait([flight.task])
        if not flight.task.cancelled():
            # Each waiter got the error; asking for it keeps asyncio from reporting it again.
            flight.task.exception()
