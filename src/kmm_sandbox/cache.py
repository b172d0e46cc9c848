"""What outlives a checkout: a directory, each part of which is filled by one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.progress import Progress

SETTING = "XDG_CACHE_HOME"


def cache_directory() -> Path:
    """Return $XDG_CACHE_HOME/kmm or ~/.cache/kmm. SandboxError for a user without a home."""
    base = os.environ.get(SETTING)
    try:
        return (Path(base) if base else Path.home() / ".cache") / "kmm"
    except RuntimeError as error:
        raise SandboxError(f"{error} Set HOME or {SETTING}", reason="CacheUnusable") from error


@contextmanager
def only_builder(directory: Path, progress: Progress) -> Iterator[None]:
    """Make a directory of the cache and keep others from filling it; waits for them first.

    Raises SandboxError where it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("w")
    except OSError as error:
        raise SandboxError(
            f"{directory}: {error.strerror}: have this user own it, or set {SETTING}",
            reason="CacheUnusable",
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"another process is filling {directory}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
