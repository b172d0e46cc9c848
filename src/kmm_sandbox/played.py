"""A sandbox that plays kubelet: what is the same in it whatever kernels its nodes have."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from kmm_sandbox.controlplane import ControlPlane
from kmm_sandbox.kerneltree import KernelTree
from kmm_sandbox.kmmcp import KmmCp
from kmm_sandbox.kubeapi import KubeApi
from kmm_sandbox.manifests import Kubectl
from kmm_sandbox.processes import Launcher
from kmm_sandbox.registry import Registry
from kmm_sandbox.samples import EVERYWHERE, Placement


class PlayedNode(Protocol):
    """A node whose kubelet is the sandbox."""

    def require_alive(self) -> None:
        """Raise SandboxError if it, or a part of it, has ended by itself."""

    def leave(self) -> None:
        """End everything of the node at once."""


N = TypeVar("N", bound=PlayedNode)


@dataclass(slots=True, kw_only=True)
class PlayedSandbox(Generic[N]):
    """Kubernetes, a registry, kmm-cp as a process, and nodes of one kind; started once."""

    directory: Path
    launcher: Launcher
    kernel: KernelTree
    """The one of the nodes."""
    plane: ControlPlane
    registry: Registry
    kmm_cp: KmmCp
    nodes: dict[str, N] = field(default_factory=dict)

    @property
    def api(self) -> KubeApi:
        """An administrator's requests."""
        return self.plane.api()

    @property
    def placement(self) -> Placement:
        """Where Modules go that are to be on its nodes."""
        return EVERYWHERE

    @property
    def kubectl(self) -> Kubectl:
        """An administrator's kubectl."""
        return self.plane.kubectl

    def require_alive(self) -> None:
        """Raise SandboxError, saying which, if a part has ended by itself."""
        self.plane.require_alive()
        self.registry.process.require_alive()
        self.kmm_cp.require_alive()
        for node in self.nodes.values():
            node.require_alive()

    def connected(self) -> bool:
        """Tell whether every node's daemon has a session. SandboxError if a part has ended."""
        self.require_alive()
        return self.kmm_cp.connected(self.nodes)

    def stop(self) -> None:
        """End everything at once; what is on disk stays until the directory goes."""
        for node in self.nodes.values():
            node.leave()
        if self.kmm_cp.process is not None:
            self.kmm_cp.kill()
        self.registry.stop()
        self.plane.stop()
