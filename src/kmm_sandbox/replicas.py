"""What the replicas of KMM's control plane tell of themselves by their own metrics."""

import re
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

from kmm_common.clock import SystemClock
from kmm_sandbox.errors import SandboxError

QUIET_SECONDS = 5.0
"""Longer than any change waits for others to be reconciled with."""
PERIOD_SECONDS = 0.5
_RECONCILES = re.compile(r"^kmm_cp_reconciles_total\{.*$", re.MULTILINE)
_SESSIONS = re.compile(r"^kmm_cp_sessions (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Replicas:
    """All that run, by the hosts and ports of their metrics."""

    places: Sequence[str]

    def wait_idle(self, *, seconds: float) -> None:
        """Wait until no controller has had anything to do for a while.

        Raises SandboxError, OSError.
        """
        clock = SystemClock()
        deadline = clock.monotonic() + seconds
        seen, since = self.reconciles(), clock.monotonic()
        while clock.monotonic() < since + QUIET_SECONDS:
            if clock.monotonic() > deadline:
                raise SandboxError(
                    f"kmm-cp has always something to do: not idle in {seconds:.0f} s"
                )
            time.sleep(PERIOD_SECONDS)
            now = self.reconciles()
            if now != seen:
                seen, since = now, clock.monotonic()

    def reconciles(self) -> list[str]:
        """Return what each counts of its reconciles. Raises SandboxError, OSError."""
        return [row for place in self.places for row in sorted(_found(place, _RECONCILES))]

    def sessions(self) -> int:
        """Return how many nodes have a session with one of them. Raises SandboxError, OSError."""
        return sum(int(float(row)) for place in self.places for row in _found(place, _SESSIONS))


def _found(place: str, pattern: re.Pattern[str]) -> list[str]:
    url = f"http://{place}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = pattern.findall(answer.read().decode())
    if not found:
        raise SandboxError(f"{url} has no row like {pattern.pattern}")
    return found
