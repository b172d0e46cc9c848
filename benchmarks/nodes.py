"""A sandbox of real kernels, for as long as a benchmark needs one."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kmm_sandbox import machine
from kmm_sandbox.binaries import find_binaries
from kmm_sandbox.process.sandbox import Sandbox
from kmm_sandbox.progress import Progress

LIMIT_SECONDS = 120.0


@contextmanager
def sandbox(nodes: int) -> Iterator[Sandbox]:
    """Run a sandbox with so many nodes within."""
    progress = Progress()
    machine.prepare(progress)
    binaries = find_binaries(progress)
    with tempfile.TemporaryDirectory(prefix="kmm-bench-") as directory:
        started = Sandbox.start(
            Path(directory), binaries, progress=progress, nodes=nodes, leashed=False
        )
        try:
            yield started
        finally:
            started.stop()


def until(condition: Callable[[], bool], *, pause: float = 0.005) -> None:
    """Wait for a condition, which is asked every `pause` seconds. Raises TimeoutError."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the benchmark waited in vain")
        time.sleep(pause)
