"""Programs of pinned Go modules that are compiled once for this user, and kept in the cache."""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kmm_sandbox.cache import cache_directory, only_builder
from kmm_sandbox.gobuild import Build, build
from kmm_sandbox.gotoolchain import find_go
from kmm_sandbox.progress import Progress


def missing(directory: Path, names: Iterable[str]) -> list[str]:
    """Return the names of the programs that are not in a directory."""
    return [name for name in names if not os.access(directory / name, os.X_OK)]


def compiled(
    place: str,
    names: Sequence[str],
    jobs: Callable[[Sequence[str]], Iterable[Build]],
    progress: Progress,
) -> Path:
    """Return the directory of the cache, by its name there, that has these programs.

    What is absent is compiled first: `jobs` returns how. Raises SandboxError.
    """
    directory = cache_directory() / place
    if missing(directory, names):
        with only_builder(directory, progress):
            if absent := missing(directory, names):
                _fill(directory, jobs(absent), progress)
    return directory


def _fill(directory: Path, jobs: Iterable[Build], progress: Progress) -> None:
    """Compile next to the directory's content; move each program there when it is whole."""
    with tempfile.TemporaryDirectory(prefix=".build-", dir=directory) as scratch:
        for job in jobs:
            build(find_go(cache_directory(), progress), job, Path(scratch), progress)
            for name in job.packages:
                (Path(scratch) / name).replace(directory / name)
