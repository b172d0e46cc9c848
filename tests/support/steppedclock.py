"""The machine's clock, put wrong by a test."""

from datetime import datetime, timedelta

from kmm_common.clock import SystemClock


class SteppedClock(SystemClock):
    """Wall time is off by what a test says; monotonic time runs on, as a kernel's does."""

    def __init__(self, offset: timedelta = timedelta()) -> None:
        self.offset = offset

    def now(self) -> datetime:
        return super().now() + self.offset
