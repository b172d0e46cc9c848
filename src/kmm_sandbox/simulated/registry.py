"""The registry of simulated nodes: a program of one Go module, compiled in seconds.

It keeps its content in memory, and needs no package of the system's.
"""

import os
import tempfile
from pathlib import Path

from kmm_sandbox.binaries import GOMODULES, cache_directory, only_builder, pinned_version
from kmm_sandbox.gobuild import Build, build
from kmm_sandbox.gotoolchain import find_go
from kmm_sandbox.processes import Launcher
from kmm_sandbox.progress import Progress
from kmm_sandbox.registry import Registry

SOURCE = GOMODULES / "registry"
MODULE = "github.com/google/go-containerregistry"
NAME = "registry"
HOST = "127.0.0.1"
"""Where it listens: on localhost, and nowhere else."""


def find_registry(progress: Progress) -> Path:
    """Return the program; compile it first if this user has none. Raises SandboxError."""
    version = pinned_version(MODULE, (SOURCE / "go.mod").read_text())
    directory = cache_directory() / f"registry-{version}"
    program = directory / NAME
    if not os.access(program, os.X_OK):
        with only_builder(directory, progress):
            if not os.access(program, os.X_OK):
                _build(program, progress)
    return program


def start_registry(program: Path, launcher: Launcher, *, port: int) -> Registry:
    """Start it and wait until it answers. Raises SandboxError."""
    return Registry.started([str(program), "-port", str(port)], launcher, host=HOST, port=port)


def _build(program: Path, progress: Progress) -> None:
    job = Build(module=SOURCE, packages={NAME: f"{MODULE}/cmd/registry"})
    with tempfile.TemporaryDirectory(prefix=".build-", dir=program.parent) as scratch:
        build(find_go(cache_directory(), progress), job, Path(scratch), progress)
        (Path(scratch) / NAME).replace(program)
