"""The kernel log by syslog(2), for containers: their devices do not include /dev/kmsg."""

import ctypes
import os
from collections.abc import Callable

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
        self._seen = read()

    def lines(self) -> list[bytes]:
        """Return what was logged since the last call. Raises OSError."""
        now = self._read()
        before, self._seen = self._seen, now
        return added(before, now).splitlines()


def added(before: bytes, now: bytes) -> bytes:
    """Return the lines that a log, which forgets its oldest lines, has now and had not before.

    The last line of before may have grown since; then it is one of them. Neither log is made a
    list: as many objects, for each module that is loaded at a time, are what a daemon grows by.
    """
    before = before.removesuffix(b"\n")
    start = 0
    while True:
        kept = before[start:]
        if now.startswith(kept):
            rest = now[len(kept) :]
            grown = rest[:1] not in (b"", b"\n")
            return now[kept.rfind(b"\n") + 1 :] if grown else rest[1:]
        start = before.find(b"\n", start) + 1
        if start == 0:
            return now
