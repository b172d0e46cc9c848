"""One daemon per node: a lock that the kernel gives back when the process ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from kmm_common.errors import TerminalError

NAME = "daemon.lock"


class AlreadyRunningError(TerminalError):
    """Another daemon serves this node."""


@contextlib.contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Hold the lock of a run directory. AlreadyRunningError names the process that has it."""
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(run_dir / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(descriptor, run_dir)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, run_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        raise AlreadyRunningError(
            f"another kmm-daemon (process {holder}) serves this node: it holds {run_dir / NAME}",
            reason="AlreadyRunning",
        ) from None
