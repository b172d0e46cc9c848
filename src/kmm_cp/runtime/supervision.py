"""Runs a service again after it broke."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.logs import log_crash
from kmm_cp.runtime.cancellation import being_cancelled

logger = logging.getLogger(__name__)

STEADY_SECONDS = 60.0


class Service(Protocol):
    """Anything that runs beside the controllers, such as an informer."""

    name: str

    async def run(self) -> None: ...


class NamedService:
    """A service with the name that its task and its logs bear."""

    def __init__(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self._run = run

    async def run(self) -> None:
        await self._run()


async def kept_up(service: Service, clock: Clock) -> None:
    """Run a service until it ends well; one that ran for long breaks for the first time."""
    backoff, attempt = Backoff(0.5, 30.0), 0
    while True:
        began = clock.monotonic()
        try:
            await service.run()
            return
        except (Exception, asyncio.CancelledError):
            if being_cancelled():
                raise
            ran = clock.monotonic() - began
            attempt = 1 if ran > STEADY_SECONDS else attempt + 1
            delay = backoff.delay(attempt)
            log_crash(logger, "service crashed", service=service.name, retry_in=delay)
        await clock.sleep(delay)
