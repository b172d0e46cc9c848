"""A sandbox that runs, as the demonstration and the check see it, whichever kind its nodes are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from kmm_sandbox.controlplane import ControlPlane
from kmm_sandbox.guestexec import Answer
from kmm_sandbox.outcome import Kernel, Observed
from kmm_sandbox.replicas import Replicas
from kmm_sandbox.samples import Placement, Source


class Node(Kernel, Protocol):
    """A node that runs commands."""

    def execute(self, *argv: str) -> Answer:
        """Run a command on the node."""


class Running(Observed, Source, Protocol):
    """The parts that are looked at. `nodes` are those that Modules are for."""

    @property
    def nodes(self) -> Mapping[str, Node]: ...

    @property
    def directory(self) -> Path:
        """The run's own: what is left there goes at its end."""

    @property
    def plane(self) -> ControlPlane: ...

    @property
    def placement(self) -> Placement:
        """Where Modules go that are to be on all of `nodes`."""


class Operations(Protocol):
    """What is done in another way for each kind of nodes."""

    def reboot(self, node: str) -> str:
        """Have a node boot anew; return the id of that boot. Raises SandboxError."""

    def restart_control_plane(self) -> None:
        """Have other processes in the place of all of KMM's replicas. Raises SandboxError."""

    def replicas(self) -> Replicas:
        """Return those that run now."""
