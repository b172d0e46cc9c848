"""What unpacking an image has cost so far, and when that is too much."""

from kmm_common.clock import Clock
from kmm_common.oci.cancellation import Cancellation
from kmm_common.oci.errors import InvalidImageError
from kmm_daemon.images.failures import TooSlowError
from kmm_daemon.images.limits import UnpackLimits


class Budget:
    """Counts over all layers of one image."""

    def __init__(self, limits: UnpackLimits, clock: Clock, cancellation: Cancellation) -> None:
        self.limits = limits
        self.written = 0
        """Bytes."""
        self.entries = 0
        self._scanned = 0
        self._clock = clock
        self._end = clock.monotonic() + limits.seconds
        self._cancellation = cancellation

    def restart(self) -> None:
        """Forget what was counted, as it was thrown away; time goes on."""
        self.written = self.entries = self._scanned = 0

    def tick(self) -> None:
        """Raise when time is over or when nobody waits any more."""
        self._cancellation.check()
        if self._clock.monotonic() > self._end:
            raise TooSlowError(self.limits.seconds)

    def scan(self) -> None:
        """Count a member that was read."""
        self._scanned += 1
        if self._scanned > self.limits.scanned:
            raise InvalidImageError(
                f"image has more than {self.limits.scanned} files; make a smaller one"
            )
        self.tick()

    def entry(self) -> None:
        """Count a member that is written."""
        self.entries += 1
        if self.entries > self.limits.entries:
            raise InvalidImageError(
                f"image has more than {self.limits.entries} files for this kernel; "
                "make a smaller one"
            )

    def write(self, size: int) -> None:
        """Count bytes that are about to be written."""
        self.written += size
        if self.written > self.limits.total_bytes:
            raise InvalidImageError(
                f"image unpacks to more than {self.limits.total_bytes} bytes; make it smaller"
            )
        self.tick()
