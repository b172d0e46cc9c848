"""A token bucket: how much may happen at once, and for long."""

from collections.abc import Callable


class Bucket:
    """Holds `burst` tokens at most and fills at `rate` tokens a second."""

    def __init__(self, *, rate: float, burst: float, now: Callable[[], float]) -> None:
        """`now` is a monotonic clock in seconds."""
        self.rate = rate
        self._burst = burst
        self._now = now
        self._left = burst
        self._at = now()

    def take(self, tokens: float = 1.0) -> float:
        """Take tokens; return how many are left, below zero where there were too few."""
        now = self._now()
        self._left = min(self._burst, self._left + (now - self._at) * self.rate) - tokens
        self._at = now
        return self._left
