"""A deduplicating queue: one entry a key, one worker a key at a time, fresh changes first."""

import asyncio
import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

from kmm_common.backoff import Backoff
from kmm_common.clock import Clock

K = TypeVar("K", bound=Hashable)


_OVERTAKEN = 64
"""So many timers may be out of date before they are swept up."""


class Priority(IntEnum):
    """Lower is handed out first."""

    FRESH = 0
    RESYNC = 1


class ClosedError(Exception):
    """The queue is shut down: nothing is handed out any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What the queue holds at one moment."""

    ready: int
    delayed: int
    in_progress: int


class Queue(Generic[K]):
    """Keys that wait for a worker. All methods but get() are synchronous: call them on the loop."""

    def __init__(self, clock: Clock, backoff: Backoff | None = None) -> None:
        self._clock = clock
        self._backoff = backoff or Backoff(0.005, 300.0)
        # Insertion order is the order within a priority.
        self._ready: dict[Priority, dict[K, None]] = {priority: {} for priority in Priority}
        self._due: dict[K, tuple[float, int, Priority]] = {}
        # By moment and number; may hold timers that _due has overtaken, which are skipped.
        self._timers: list[tuple[float, int, K]] = []
        self._timer_number = 0
        self._in_progress: dict[K, Priority] = {}
        """As what each was handed out."""
        self._dirty: dict[K, Priority] = {}
        self._failures: dict[K, int] = {}
        self._closed = False
        self._wake = asyncio.Event()

    def add(self, key: K, priority: Priority = Priority.FRESH) -> None:
        """Hand the key out as soon as a worker is free; again if it is in progress now."""
        if self._closed:
            return
        self._due.pop(key, None)
        if key in self._in_progress:
            self._dirty[key] = min(priority, self._dirty.get(key, priority))
            return
        self._put(key, priority)
        self._wake.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Hand the key out in so many seconds, or earlier if something else asks for it.

        A key in progress keeps its priority: thousands that fail in a resync stay behind what is
        fresh.
        """
        if self._closed or any(key in keys for keys in self._ready.values()):
            return
        due = self._clock.monotonic() + seconds
        if key not in self._due or due < self._due[key][0]:
            self._set_timer(key, due)
            self._wake.set()

    async def get(self) -> K:
        """Return the next key; it is in progress until done(). Raises ClosedError."""
        while True:
            if self._closed:
                raise ClosedError
            self._wake.clear()
            self._promote()
            for priority, keys in self._ready.items():
                if keys:
                    key = next(iter(keys))
                    del keys[key]
                    self._in_progress[key] = priority
                    return key
            await self._wait()

    def done(self, key: K) -> None:
        """End the key's turn; it is handed out again if it was added meanwhile."""
        self._in_progress.pop(key, None)
        if key in self._dirty:
            self.add(key, self._dirty.pop(key))

    def retry(self, key: K, *, at_least: float = 0.0) -> float:
        """Hand the key out again after its backoff; return that delay in seconds."""
        self._failures[key] = self._failures.get(key, 0) + 1
        delay = max(self._backoff.delay(self._failures[key]), at_least)
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """Start the key's backoff anew."""
        self._failures.pop(key, None)

    def shut_down(self) -> None:
        """Forget what waits and hand nothing out any more; keys in progress end by themselves."""
        self._closed = True
        for keys in self._ready.values():
            keys.clear()
        self._due.clear()
        self._wake.set()

    def statistics(self) -> Statistics:
        """Return what is in the queue."""
        ready = sum(len(keys) for keys in self._ready.values())
        return Statistics(ready=ready, delayed=len(self._due), in_progress=len(self._in_progress))

    def _put(self, key: K, priority: Priority) -> None:
        if any(key in self._ready[other] for other in Priority if other <= priority):
            return
        self._ready[Priority.RESYNC].pop(key, None)
        self._ready[priority][key] = None

    def _set_timer(self, key: K, due: float) -> None:
        self._timer_number += 1
        priority = self._in_progress.get(key, Priority.FRESH)
        self._due[key] = due, self._timer_number, priority
        heapq.heappush(self._timers, (due, self._timer_number, key))
        if len(self._timers) > 2 * len(self._due) + _OVERTAKEN:
            self._timers = [timer for timer in self._timers if self._counts(timer)]
            heapq.heapify(self._timers)

    def _promote(self) -> None:
        """Make ready what is due; a key in progress is added again when its turn ends."""
        now = self._clock.monotonic()
        while (due := self._next_due()) is not None and due <= now:
            _, _, key = heapq.heappop(self._timers)
            self.add(key, self._due[key][2])

    def _next_due(self) -> float | None:
        while self._timers:
            if self._counts(self._timers[0]):
                return self._timers[0][0]
            heapq.heappop(self._timers)
        return None

    def _counts(self, timer: tuple[float, int, K]) -> bool:
        due, number, key = timer
        return key in self._due and self._due[key][:2] == (due, number)

    async def _wait(self) -> None:
        """Wait for an add, or for the earliest key that is due."""
        due = self._next_due()
        if due is None:
            await self._wake.wait()
            return
        async with asyncio.TaskGroup() as group:
            timer = group.create_task(self._ring(due), name="queue timer")
            await self._wake.wait()
            timer.cancel()

    async def _ring(self, due: float) -> None:
        await self._clock.sleep(max(due - self._clock.monotonic(), 0.0))
        self._wake.set()
