"""Starts services, waits for their caches, runs controllers, and ends all of them in order."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.logs import log, log_crash
from kmm_cp.runtime.cancellation import being_cancelled
from kmm_cp.runtime.controller import Controller

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 4.0
STEADY_SECONDS = 60.0


class Service(Protocol):
    """Anything that runs beside the controllers, such as an informer."""

    name: str

    async def run(self) -> None: ...


class Cache(Service, Protocol):
    """A service that controllers must not start without."""

    @property
    def synced(self) -> asyncio.Event: ...


class Manager:
    """Owns every task of the process."""

    def __init__(
        self,
        *,
        caches: Sequence[Cache],
        services: Sequence[Service],
        controllers: Sequence[Controller[Any]],
        clock: Clock,
        before_controllers: Callable[[], None] = lambda: None,
    ) -> None:
        """`before_controllers` is called once, when all caches are synced."""
        self._before_controllers = before_controllers
        self._caches = caches
        self._services = services
        self._controllers = controllers
        self._clock = clock
        self._backoff = Backoff(0.5, 30.0)
        self._stopping = asyncio.Event()
        self.synced = asyncio.Event()

    def stop(self) -> None:
        """Let run() end: reconciles in progress are finished, then everything is cancelled."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until stop()."""
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self._kept_up(service), name=service.name)
                for service in (*self._caches, *self._services)
            ]
            controlling = tasks.create_task(self._control(), name="controllers")
            await self._stopping.wait()
            await self._drain(controlling)
            for task in background:
                task.cancel()

    async def _control(self) -> None:
        for cache in self._caches:
            if not cache.synced.is_set():
                log(logger, logging.INFO, "waiting for a cache", resource=cache.name)
            await cache.synced.wait()
        self._before_controllers()
        self.synced.set()
        log(logger, logging.INFO, "caches synced", controllers=len(self._controllers))
        async with asyncio.TaskGroup() as tasks:
            for controller in self._controllers:
                tasks.create_task(controller.run(), name=f"controller {controller.name}")

    async def _drain(self, controlling: asyncio.Task[None]) -> None:
        for controller in self._controllers:
            controller.stop()
        if not self.synced.is_set():
            controlling.cancel()
        _, pending = await asyncio.wait([controlling], timeout=DRAIN_SECONDS)
        for task in pending:
            log(logger, logging.WARNING, "reconciles cut off", after=DRAIN_SECONDS)
            task.cancel()

    async def _kept_up(self, service: Service) -> None:
        """Run a service again after it broke; one that ran for long breaks for the first time."""
        attempt = 0
        while True:
            began = self._clock.monotonic()
            try:
                await service.run()
                return
            except (Exception, asyncio.CancelledError):
                if being_cancelled():
                    raise
                ran = self._clock.monotonic() - began
                attempt = 1 if ran > STEADY_SECONDS else attempt + 1
                delay = self._backoff.delay(attempt)
                log_crash(logger, "service crashed", service=service.name, retry_in=delay)
            await self._clock.sleep(delay)
