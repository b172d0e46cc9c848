"""Clears up behind replicas that ended without a word: what they served is served no more."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from kmm_common.clock import Clock
from kmm_common.errors import KmmError
from kmm_common.logs import log

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
MISSED_LOOKS = 4
"""In so many looks after another a replica must have given a sign of life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What is known of a replica."""

    stamp: str
    """Of its newest sign of life; another one with each; empty without any."""
    missed: int = 0
    """Looks since it was new."""


def felt(
    before: Mapping[str, Pulse], stamps: Mapping[str, str], listing: Iterable[str]
) -> dict[str, Pulse]:
    """Return the pulses after a look at the signs of life, and at whose lists there are."""
    pulses = {}
    for replica in {*stamps, *listing}:
        stamp, known = stamps.get(replica, ""), before.get(replica)
        same = known is not None and known.stamp == stamp
        pulses[replica] = Pulse(stamp=stamp, missed=known.missed + 1 if known and same else 0)
    return pulses


@dataclass(slots=True, kw_only=True)
class DeadReplicas:
    """A service of the leader. Looks are counted, not times: while there is no API server, no
    replica can give a sign of life."""

    signs: Callable[[], Awaitable[Mapping[str, str]]]
    """Returns the stamp of each replica's newest sign of life. Raises KmmError."""
    listing: Callable[[], Iterable[str]]
    """Returns the replicas that have lists of served nodes."""
    clear: Callable[[str], Awaitable[None]]
    """Removes all that a replica has left. Raises KmmError."""
    clock: Clock
    name: str = "dead replicas"
    _pulses: dict[str, Pulse] = field(default_factory=dict)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self._look()
            except KmmError as error:
                self._pulses = {}
                log(logger, logging.INFO, "replicas not looked at", error=str(error))
            await self.clock.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        self._pulses = felt(self._pulses, await self.signs(), self.listing())
        for replica in [name for name, p in self._pulses.items() if p.missed >= MISSED_LOOKS]:
            await self.clear(replica)
            log(logger, logging.WARNING, "dead replica cleared away", replica=replica)
            del self._pulses[replica]
