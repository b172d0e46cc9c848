"""Lines a person can follow: what happens, and how long it has taken."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from kmm_common.clock import Clock, SystemClock


@dataclass(slots=True, kw_only=True)
class Progress:
    """Prints each line behind the seconds since the start."""

    stream: TextIO = sys.stderr
    clock: Clock = field(default_factory=SystemClock)
    quiet: bool = False
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.clock.monotonic() - self._started

    def say(self, text: str) -> None:
        """Print one line."""
        if not self.quiet:
            print(f"[{self.elapsed:6.1f} s] {text}", file=self.stream, flush=True)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Print a line before, and one with the seconds taken after the body has succeeded."""
        self.say(f"{text} ...")
        started = self.clock.monotonic()
        yield
        self.say(f"{text}: done in {self.clock.monotonic() - started:.1f} s")
