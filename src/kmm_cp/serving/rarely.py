"""Tells little of what happens often, within a bound whoever makes it happen."""

from collections.abc import Hashable

from kmm_common.clock import Clock

QUIET_SECONDS = 600.0
"""A peer that is refused comes back every few seconds; what is told of it does not."""
MOST_TOLD = 100
"""Different things that are told in that time; whoever can make certificates can make many."""


class Rarely:
    """Lets a thing through once in a while, and no more than so many things in that while."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[Hashable, float] = {}
        """Monotonic time by thing."""

    def __call__(self, thing: Hashable) -> bool:
        """Tell whether it may be told now."""
        now = self._clock.monotonic()
        self._told = {one: at for one, at in self._told.items() if now - at < QUIET_SECONDS}
        if thing in self._told or len(self._told) >= MOST_TOLD:
            return False
        self._told[thing] = now
        return True
