"""Bounds how fast one stream is read, so that a flood costs only the one who sends it."""

from kmm_common.clock import Clock


class Pace:
    """A bucket of `burst` messages that fills at `rate` messages a second."""

    def __init__(self, clock: Clock, *, rate: float, burst: float) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = clock.monotonic()

    async def step(self) -> None:
        """Wait until one more message may be read."""
        now = self._clock.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - 1
        self._at = now
        if self._left < 0:
            await self._clock.sleep(-self._left / self._rate)
