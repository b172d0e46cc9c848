"""What a cluster has that a Stage is on, whichever kind its nodes are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from kmm_sandbox.guestexec import Answer
from kmm_sandbox.outcome import Kernel, Observed
from kmm_sandbox.samples import Placement, Source


class StagedNode(Kernel, Protocol):
    """A node with a kernel of its own, and a daemon."""

    def execute(self, *argv: str, stdin: str = "") -> Answer:
        """Run a command on the node."""

    def boot_id(self) -> str:
        """Return the id of the running boot."""

    def power_cycle(self) -> None:
        """Cut the power, then switch on."""

    def restart_daemon(self) -> None:
        """Have the daemon end and start again."""

    def daemon_argv(self, *words: str) -> tuple[str, ...]:
        """Return the command line of the daemon, or of one of its other commands."""

    def run_in_pod(self, *argv: str) -> Answer:
        """Run a command in the daemon's container, or in one like it."""


class Staged(Observed, Source, Protocol):
    """Nodes, ways in, and what KMM's programs have logged."""

    @property
    def nodes(self) -> Mapping[str, StagedNode]: ...

    @property
    def placement(self) -> Placement:
        """Where Modules go that are to be on all of `nodes`."""

    @property
    def control_plane_logs(self) -> list[Path]:
        """JSON lines, one file a start."""

    def daemon_logs(self, node: str) -> list[Path]:
        """JSON lines of a node's daemons."""
