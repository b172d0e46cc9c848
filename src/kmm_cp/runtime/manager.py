"""Starts caches and services, leads once the caches are synced, and ends all of it in order."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from kmm_common.clock import Clock
from kmm_common.logs import log
from kmm_cp.runtime.supervision import Service, kept_up

logger = logging.getLogger(__name__)

END_SECONDS = 6.0
"""For the work, which has bounds of its own, to end."""


class Cache(Service, Protocol):
    """A service that the work must not start without."""

    @property
    def synced(self) -> asyncio.Event: ...


class Work(Protocol):
    """What needs the caches: a candidate, or a term that nobody is elected for."""

    async def run(self) -> None:
        """Work until stop()."""
        ...

    def stop(self) -> None:
        """Let run() end when what is in progress is done."""
        ...


class Manager:
    """Owns every task of the process."""

    def __init__(
        self,
        *,
        caches: Sequence[Cache],
        services: Sequence[Service],
        work: Work,
        clock: Clock,
        synced: asyncio.Event,
    ) -> None:
        """`synced` is set once all caches are."""
        self._caches = caches
        self._services = services
        self._work = work
        self._clock = clock
        self._synced = synced
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let run() end: what is in progress is finished, then everything is cancelled."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until stop()."""
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(kept_up(service, self._clock), name=service.name)
                for service in (*self._caches, *self._services)
            ]
            working = tasks.create_task(self._work_when_synced(), name="work")
            await self._stopping.wait()
            await self._end(working)
            for task in background:
                task.cancel()

    async def _work_when_synced(self) -> None:
        for cache in self._caches:
            if not cache.synced.is_set():
                log(logger, logging.INFO, "waiting for a cache", resource=cache.name)
            await cache.synced.wait()
        self._synced.set()
        log(logger, logging.INFO, "caches synced")
        await self._work.run()

    async def _end(self, working: asyncio.Task[None]) -> None:
        self._work.stop()
        if not self._synced.is_set():
            working.cancel()
        _, pending = await asyncio.wait([working], timeout=END_SECONDS)
        for task in pending:
            log(logger, logging.WARNING, "work cut off", after=END_SECONDS)
            task.cancel()
