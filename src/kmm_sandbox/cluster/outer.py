"""What a sandbox with real kubelets needs before it is cut off from every network."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from kmm_sandbox import machine
from kmm_sandbox.cluster import cgroups, nodebinaries
from kmm_sandbox.ended import Ended
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.launch import Inner, launch
from kmm_sandbox.progress import Progress
from kmm_sandbox.repository import REPOSITORY

IMAGES = "images"
"""Directory of the run's, for the archives of both images."""
IMAGES_SECONDS = 3600.0


def obstacle() -> str:
    """Return what keeps such nodes from running here, with the remedy; empty if nothing does."""
    return machine.unfit({**machine.PACKAGES, **nodebinaries.PACKAGES}) or cgroups.obstacle()


def build_images(*arguments: str) -> None:
    """Build KMM's images, or take them from the cache. Raises SandboxError."""
    # A program of its own: what builds images is no part of what is installed.
    argv = [sys.executable, "-m", "images.build", *arguments]
    building = subprocess.Popen(
        argv, cwd=REPOSITORY, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        code = building.wait(timeout=IMAGES_SECONDS)
    except BaseException:
        # With what it has started: that would go on filling the cache.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(building.pid, signal.SIGTERM)
        building.wait()
        raise
    if code:
        raise SandboxError("KMM's images could not be built: see above")


def prepare(progress: Progress) -> None:
    """Have programs and Debian packages here. Raises SandboxError with the remedy."""
    nodebinaries.prepare(progress)
    nodebinaries.find_node_binaries(progress)


def _supply(directory: Path) -> None:
    build_images("--output", str(directory / IMAGES))


INNER = Inner(module="kmm_sandbox.cluster.inner", prepare=prepare, supply=_supply)


def run(mode: str, *, nodes: int, progress: Progress) -> Ended:
    """Run so many nodes with kernels of their own, and one on this. Raises SandboxError."""
    return launch(mode, nodes=nodes, progress=progress, inner=INNER)
