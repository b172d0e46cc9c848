"""How late the event loop is: what keeps it busy keeps every session, watch and Lease waiting."""

from collections.abc import Callable

from kmm_common.clock import Clock

PERIOD_SECONDS = 0.25
"""A stall is seen less this at the most. Four wake-ups a second are nothing to a control plane."""


class Lateness:
    """A service that sleeps, and tells how long after its time it was woken each time, in seconds.

    uvloop has no hook that would tell it without sleeping.
    """

    def __init__(self, tell: Callable[[float], None], *, clock: Clock) -> None:
        self._tell = tell
        self._clock = clock

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = self._clock.monotonic() + PERIOD_SECONDS
            await self._clock.sleep(PERIOD_SECONDS)
            self._tell(max(0.0, self._clock.monotonic() - due))
