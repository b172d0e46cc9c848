"""Bounds how fast one stream is read, so that a flood costs only the one who sends it."""

from kmm_common.bucket import Bucket
from kmm_common.clock import Clock


class Pace:
    """Lets through `burst` messages at once, and `rate` messages a second for long."""

    def __init__(self, clock: Clock, *, rate: float, burst: float) -> None:
        self._clock = clock
        self._bucket = Bucket(rate=rate, burst=burst, now=clock.monotonic)

    async def step(self) -> None:
        """Wait until one more message may be read."""
        left = self._bucket.take()
        if left < 0:
            await self._clock.sleep(-left / self._bucket.rate)
