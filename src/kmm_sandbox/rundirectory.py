"""A run's directory: the outer half holds its lock; one that nobody holds is rubbish."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

PREFIX = "kmm-sandbox-"
LOCK = "lock"
REMOVALS = 50
PAUSE_SECONDS = 0.1


@contextmanager
def held() -> Iterator[Path]:
    """Make a directory and hold its lock; it goes at the end."""
    directory, lock = _made()
    with lock:
        try:
            yield directory
        finally:
            _remove(directory)


def sweep() -> None:
    """Remove the directories of this user's earlier runs that nobody holds any more."""
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_ours(directory):
            remove_unless_held(directory)


def remove_unless_held(directory: Path) -> None:
    """Remove a run's directory if its outer half is gone, and nobody else is removing it."""
    gone_or_held = contextlib.suppress(FileNotFoundError, BlockingIOError)
    with gone_or_held, (directory / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(directory)


def _made() -> tuple[Path, TextIO]:
    """Make a directory; return it with its lock, held."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = (directory / LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (directory / LOCK).exists():
            return directory, lock
        # Another run took it for rubbish before it was held.
        lock.close()


def _remove(directory: Path) -> None:
    """Remove all, the lock last: what an interrupted removal leaves is found by the next run.

    Processes that were killed a moment ago may still write: it is tried until nothing is left.
    """
    for _ in range(REMOVALS):
        for each in directory.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            elif each.name != LOCK:
                each.unlink(missing_ok=True)
        if [each.name for each in directory.iterdir()] == [LOCK]:
            break
        time.sleep(PAUSE_SECONDS)
    shutil.rmtree(directory, ignore_errors=True)


def _is_ours(directory: Path) -> bool:
    # It may go between the two.
    with contextlib.suppress(FileNotFoundError):
        return directory.stat().st_uid == os.geteuid()
    return False
