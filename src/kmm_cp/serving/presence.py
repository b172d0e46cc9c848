"""Says all the time that this replica lives, so that its list of served nodes counts."""

import asyncio
import logging
from typing import Protocol

from kmm_common.clock import Clock
from kmm_common.errors import KmmError
from kmm_common.logs import log
from kmm_cp.serving.served import WRITE_SECONDS, Served

logger = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
"""As often as a kubelet says it."""
SILENT_SECONDS = 30.0
"""After this a replica may have been taken for dead: reconcilers.replicas waits longer."""


class Beats(Protocol):
    """Where a replica says that it lives."""

    async def beat(self) -> bool:
        """Say it; return whether nothing of an earlier beat was there. Raises KmmError."""
        ...

    async def end(self) -> None:
        """Leave nothing there. Raises KmmError."""
        ...


class Presence:
    """Beats, and lists the served nodes anew if somebody took this replica for dead."""

    def __init__(self, *, beats: Beats, served: Served, clock: Clock) -> None:
        self._beats = beats
        self._served = served
        self._clock = clock
        self._begun = False
        self._believed_until = clock.monotonic()

    async def run(self) -> None:
        """Beat until cancelled."""
        problem = ""
        while True:
            problem = await self._attempt(problem)
            await self._clock.sleep(BEAT_SECONDS)

    async def withdraw(self) -> None:
        """Say no more that this replica lives. Raises KmmError, TimeoutError."""
        async with asyncio.timeout(WRITE_SECONDS):
            await self._beats.end()

    async def _attempt(self, problem_before: str) -> str:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                anew = await self._beats.beat()
            now = self._clock.monotonic()
            if self._begun and (anew or now > self._believed_until):
                self._served.renew()
            self._begun, self._believed_until = True, now + SILENT_SECONDS
        except (KmmError, TimeoutError) as error:
            problem = str(error) or "timed out"
            if problem != problem_before:
                log(logger, logging.WARNING, "sign of life not given", error=problem)
            return problem
        return ""
