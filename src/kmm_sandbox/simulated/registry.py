"""The registry of simulated nodes: a program of one Go module, compiled in seconds.

It keeps its content in memory, and needs no package of the system's.
"""

from pathlib import Path

from kmm_sandbox.gobuild import GOMODULES, Build, pinned_version
from kmm_sandbox.goprograms import compiled
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
    job = Build(module=SOURCE, packages={NAME: f"{MODULE}/cmd/registry"})
    return compiled(f"registry-{version}", [NAME], lambda absent: [job], progress) / NAME


def start_registry(program: Path, launcher: Launcher, *, port: int) -> Registry:
    """Start it and wait until it answers. Raises SandboxError."""
    return Registry.started([str(program), "-port", str(port)], launcher, host=HOST, port=port)
