"""Delays between attempts."""

import random
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays, in seconds, with jitter.

    `jitter` is the share of the delay that is drawn at random: 0.0 none, 1.0 full jitter.
    """

    base: float
    cap: float
    jitter: float = 0.2
    rng: random.Random = field(default_factory=random.SystemRandom, compare=False)

    def delay(self, attempt: int) -> float:
        """Return the delay after the given failed attempt, counted from 1."""
        # 2.0**1024 overflows; no cap in use is reached by more than 60 doublings.
        full = min(self.cap, self.base * 2.0 ** min(max(attempt, 1) - 1, 60))
        return full * (1.0 - self.jitter) + self.rng.uniform(0.0, full * self.jitter)
