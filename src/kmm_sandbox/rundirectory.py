"""A run's directory: the outer half holds its lock; one that nobody holds is rubbish."""

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "kmm-sandbox-"
LOCK = "lock"


@contextmanager
def held() -> Iterator[Path]:
    """Make a directory and hold its lock; it goes at the end."""
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    with (directory / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def sweep() -> None:
    """Remove the directories of earlier runs that nobody holds any more."""
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        remove_unless_held(directory)


def remove_unless_held(directory: Path) -> None:
    """Remove a run's directory if its outer half is gone."""
    lock = directory / LOCK
    if lock.exists() and _is_free(lock):
        shutil.rmtree(directory, ignore_errors=True)


def _is_free(lock: Path) -> bool:
    with lock.open() as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
