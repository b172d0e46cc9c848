"""A whole cluster whose nodes are simulated: processes of one user on loopback, and no more."""

from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.binaries import Binaries
from kmm_sandbox.controlplane import ControlPlane, Layout, Ports, free_ports
from kmm_sandbox.kmmcp import KmmCp
from kmm_sandbox.kubelet import Kubelet
from kmm_sandbox.played import PlayedSandbox
from kmm_sandbox.processes import Launcher, wait_until
from kmm_sandbox.programs import Listening
from kmm_sandbox.progress import Progress
from kmm_sandbox.simulated.modules import SimulatedTree
from kmm_sandbox.simulated.node import SimulatedMachine, SimulatedNode
from kmm_sandbox.simulated.registry import start_registry

HOST = "127.0.0.1"
READY_SECONDS = 120.0


@dataclass(slots=True, kw_only=True)
class SimulatedSandbox(PlayedSandbox[SimulatedNode]):
    """Started once, in the main thread: what it starts ends with that thread."""

    @classmethod
    def start(
        cls,
        directory: Path,
        binaries: Binaries,
        *,
        registry_program: Path,
        progress: Progress,
        nodes: int,
    ) -> "SimulatedSandbox":
        """Bring everything up, the daemons included. Raises SandboxError."""
        launcher = Launcher(logs=directory / "logs", leashed=True)
        with progress.step("Kubernetes and a registry"):
            layout = Layout(directory=directory / "kubernetes", ports=Ports.free())
            plane = ControlPlane.start(binaries, layout, leashed=True)
            try:
                sandbox = cls._beside(plane, directory, launcher, registry_program)
            except BaseException:
                plane.stop()
                raise
        try:
            sandbox._install(nodes, progress)
        except BaseException:
            sandbox.stop()
            raise
        return sandbox

    @classmethod
    def _beside(
        cls, plane: ControlPlane, directory: Path, launcher: Launcher, registry_program: Path
    ) -> "SimulatedSandbox":
        """Start the registry; return the sandbox that has nothing of KMM yet."""
        registry_port, link_port, metrics_port = free_ports(3)
        listening = Listening(host=HOST, link_port=link_port, metrics_port=metrics_port)
        return cls(
            directory=directory,
            launcher=launcher,
            kernel=SimulatedTree.make(directory / "modules"),
            plane=plane,
            registry=start_registry(registry_program, launcher, port=registry_port),
            kmm_cp=KmmCp(
                directory=directory,
                launcher=launcher,
                plane=plane,
                listening=listening,
            ),
        )

    def _install(self, nodes: int, progress: Progress) -> None:
        with progress.step("KMM: CRDs, rights, certificates, control plane"):
            self.kmm_cp.install()
            self.kmm_cp.start()
        with progress.step(f"{nodes} simulated nodes join, daemons start"):
            for number in range(1, nodes + 1):
                self._add(f"node{number}")
            wait_until(self.connected, seconds=READY_SECONDS, what="sessions of all daemons")

    def _add(self, name: str) -> None:
        directory = self.directory / name
        machine = SimulatedMachine(root=directory / "kernel")
        kubelet = Kubelet(node=name, address=HOST, machine=machine, api=self.api)
        node = SimulatedNode(
            directory=directory,
            machine=machine,
            kubelet=kubelet,
            launcher=self.launcher,
            authority=self.kmm_cp.authority,
            server=self.kmm_cp.listening.link,
        )
        self.nodes[name] = node
        node.join()
