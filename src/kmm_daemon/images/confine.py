"""What the image worker gives up before it reads a byte from outside."""

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path

from kmm_daemon.images.forbid import forbid

DATA_BYTES = 2**30
"""Of memory that the worker may allocate; a zstd window alone may take 128 MiB."""
FILES = 1024
OOM_SCORE = 500
"""When memory ends, the worker goes before the daemon: its work is only begun again."""

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def confine() -> None:
    """Bound this process, for good. Raises OSError.

    It gains no rights any more, leaves no core file and is not looked into (it has pull secrets in
    memory), ends with the daemon, and starts no program.
    """
    # A kernel without the file has no such killer.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_DATA, DATA_BYTES)
    _limit(resource.RLIMIT_NOFILE, FILES)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    forbid()


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (bound, bound))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
