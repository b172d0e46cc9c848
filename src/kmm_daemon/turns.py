"""How long the event loop is busy in one go, told by its selector."""

import selectors
from collections.abc import Callable

from kmm_common.clock import Clock


class TimedSelector(selectors.EpollSelector):
    """A selector for an event loop; tells how many seconds each turn of that took.

    From the end of one wait for events to the beginning of the next nothing else has a turn. So
    every stall is seen, whole, and an idle daemon is not woken to look for one.
    """

    def __init__(self, *, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._woken: float | None = None
        self._tell: Callable[[float], None] | None = None

    def on_turn(self, tell: Callable[[float], None]) -> None:
        """Tell it of every turn from now on."""
        self._tell = tell

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, as the event loop does once a turn."""
        if self._tell and self._woken is not None:
            self._tell(self._clock.monotonic() - self._woken)
        ready = super().select(timeout)
        self._woken = self._clock.monotonic()
        return ready
