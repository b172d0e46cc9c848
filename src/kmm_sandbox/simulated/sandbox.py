"""A whole cluster whose nodes are simulated: processes of one user on loopback, and no more."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.binaries import Binaries
from kmm_sandbox.controlplane import ControlPlane, Layout, Ports
from kmm_sandbox.kmmcp import KmmCp
from kmm_sandbox.kubelet import Kubelet
from kmm_sandbox.played import PlayedSandbox
from kmm_sandbox.ports import HOST, KeptPorts
from kmm_sandbox.processes import Launcher, wait_until
from kmm_sandbox.programs import Listening
from kmm_sandbox.progress import Progress
from kmm_sandbox.simulated.modules import SimulatedTree
from kmm_sandbox.simulated.node import SimulatedMachine, SimulatedNode
from kmm_sandbox.simulated.registry import start_registry

READY_SECONDS = 120.0


@dataclass(slots=True, kw_only=True)
class SimulatedSandbox(PlayedSandbox[SimulatedNode]):
    """Started once, in the main thread: what it starts ends with that thread."""

    ports: KeptPorts
    """Where its programs listen."""

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
        with ExitStack() as undo:
            ports = undo.enter_context(KeptPorts())
            with progress.step("Kubernetes and a registry"):
                layout = Layout(directory=directory / "kubernetes", ports=Ports.of(ports))
                plane = ControlPlane.start(binaries, layout, leashed=True)
                undo.callback(plane.stop)
                sandbox = cls._beside(plane, directory, ports, registry_program)
                undo.callback(sandbox.stop)
            sandbox._install(nodes, progress)
            undo.pop_all()
        return sandbox

    @classmethod
    def _beside(
        cls, plane: ControlPlane, directory: Path, ports: KeptPorts, registry_program: Path
    ) -> "SimulatedSandbox":
        """Start the registry; return the sandbox that has nothing of KMM yet."""
        launcher = Launcher(logs=directory / "logs", leashed=True)
        listening = Listening(host=HOST, link_port=ports.port(), metrics_port=ports.port())
        return cls(
            directory=directory,
            ports=ports,
            launcher=launcher,
            kernel=SimulatedTree.make(directory / "modules"),
            plane=plane,
            registry=start_registry(registry_program, launcher, port=ports.port()),
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
            metrics_listen=self.ports.address(),
        )
        self.nodes[name] = node
        node.join()

    def stop(self) -> None:
        """End everything at once; what is on disk stays until the directory goes."""
        # Not super(): a class with slots is made anew, and the name it means is the old one's.
        PlayedSandbox.stop(self)
        self.ports.close()
