"""The kernel log by syslog(2), for containers: their devices do not include /dev/kmsg."""

import ctypes
import os
from collections.abc import Callable, Sequence

READ_ALL = 3
WINDOW_BYTES = 64 * 1024
"""Of the newest lines, whole ones: more than a modprobe is told of, and little for the daemon."""


def read_all() -> bytes:
    """Return the newest lines, `<priority>[ seconds] text` each. Raises OSError."""
    buffer = ctypes.create_string_buffer(WINDOW_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    size = libc.klogctl(READ_ALL, buffer, WINDOW_BYTES)
    if size < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return ctypes.string_at(buffer, size)


class Tail:
    """What is logged from its making on."""

    def __init__(self, read: Callable[[], bytes] = read_all) -> None:
        """Raises OSError where the log may not be read."""
        self._read = read
        self._seen = read().splitlines()

    def lines(self) -> tuple[bytes, ...]:
        """Return what was logged since the last call. Raises OSError."""
        now = self._read().splitlines()
        before, self._seen = self._seen, now
        return tuple(added(before, now))


def added(before: Sequence[bytes], now: Sequence[bytes]) -> Sequence[bytes]:
    """Return the lines that a log, which forgets its oldest lines, has now and had not before.

    The last line of before may have grown since; then it is one of them.
    """
    for start, line in enumerate(before):
        if line not in now[:1] and start + 1 < len(before):
            continue
        kept = before[start:]
        if kept[:-1] == now[: len(kept) - 1]:
            grown = now[len(kept) - 1 : len(kept)] != kept[-1:]
            return now[len(kept) - grown :]
    return now
