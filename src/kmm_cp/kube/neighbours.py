"""Looks for another KMM on the same CRD: before we begin, and while we are at work."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from kmm_common.api.names import Event
from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.errors import KmmError, TerminalError, TransientError
from kmm_common.logs import log
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.events import EventRecorder, Regarding
from kmm_cp.kube.resources import LEASES
from kmm_cp.policy.neighbours import LEASE, Neighbour, alive, neighbours_in, remedy

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks at the start; upstream renews its Lease as often."""
WATCH_SECONDS = 60.0
_PATIENCE_SECONDS = 5.0
_LONGEST_SECONDS = 60.0


class NeighbourError(TerminalError):
    """Another KMM is active in this cluster."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="AnotherKMM")


@dataclass(slots=True, kw_only=True)
class Neighbours:
    """Sees the Leases of one name in all namespaces and nothing else: see ADR 20."""

    client: KubeClient
    events: EventRecorder
    namespace: str
    """Where an event of it is looked for: our own."""
    tell: Callable[[int], None]
    """Told how many are active, whenever somebody looked."""
    clock: Clock
    backoff: Backoff = field(default_factory=lambda: Backoff(0.5, 30.0, jitter=0.5))

    async def require_none(self) -> None:
        """Return if no other KMM is active. Raises NeighbourError.

        It takes no longer than an answer of the API server, unless somebody's Lease is there that
        is not old: then as long as that one would have to be renewed in.
        """
        before = await self._look()
        if not before:
            return
        wait = max(each.duration for each in before) + _PATIENCE_SECONDS
        end = self.clock.monotonic() + min(wait, _LONGEST_SECONDS)
        while self.clock.monotonic() < end:
            await self.clock.sleep(LOOK_SECONDS)
            if active := alive(before, await self._look()):
                self._warn(active[0])
                await self.events.drain()
                raise NeighbourError(remedy(active[0]))
        log(logger, logging.INFO, "nobody renews the lease of another KMM", held_by=str(before[0]))

    async def run(self) -> None:
        """Tell of each one that comes and goes while we are at work, until cancelled."""
        known: list[Neighbour] = []
        there = set[str]()
        while True:
            await self.clock.sleep(WATCH_SECONDS)
            now = await self._look()
            active = alive(known, now)
            for one in active:
                if one.namespace not in there:
                    self._warn(one)
            for namespace in there - {one.namespace for one in active}:
                log(logger, logging.INFO, "another KMM is gone", namespace=namespace)
            known, there = now, {one.namespace for one in active}
            self.tell(len(there))

    def _warn(self, neighbour: Neighbour) -> None:
        text = remedy(neighbour)
        log(logger, logging.WARNING, "another KMM is active", held_by=str(neighbour), remedy=text)
        self.events.warning(
            Regarding.namespace_itself(self.namespace),
            Event.ANOTHER_KMM,
            text[0].upper() + text[1:],
        )

    async def _look(self) -> list[Neighbour]:
        """Ask until there is an answer."""
        attempt = 0
        while True:
            try:
                return neighbours_in(await self.client.named(LEASES, LEASE), self.clock.now())
            except KmmError as error:
                attempt += 1
                if attempt == 1:
                    log(logger, logging.WARNING, "leases not seen", error=str(error))
                asked = error.retry_after if isinstance(error, TransientError) else None
                await self.clock.sleep(max(self.backoff.delay(attempt), asked or 0.0))
