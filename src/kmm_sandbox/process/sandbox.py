"""The whole cluster: Kubernetes, registry, control plane and nodes, in namespaces of their own."""

import compileall
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import kmm_common
import kmm_daemon
from kmm_sandbox import network, programs
from kmm_sandbox.binaries import Binaries
from kmm_sandbox.controlplane import ControlPlane, Layout, Ports
from kmm_sandbox.kmmcp import KmmCp
from kmm_sandbox.kubelet import Guest, Kubelet
from kmm_sandbox.network import HOST_ADDRESS, REGISTRY_PORT, NodeAddress
from kmm_sandbox.played import PlayedSandbox
from kmm_sandbox.process.node import Node
from kmm_sandbox.processes import Launcher, wait_until
from kmm_sandbox.progress import Progress
from kmm_sandbox.registry import Registry
from kmm_sandbox.uml import UmlNode, booting, new_machine, shared_memory_fits
from kmm_sandbox.umlkernel import UmlKernel

READY_SECONDS = 60.0


@dataclass(slots=True, kw_only=True)
class Sandbox(PlayedSandbox[Node]):
    """Started once; must run inside a network namespace of its own."""

    progress: Progress

    @classmethod
    def start(
        cls, directory: Path, binaries: Binaries, *, progress: Progress, nodes: int, leashed: bool
    ) -> "Sandbox":
        """Bring everything up, the daemons included. Raises SandboxError."""
        addresses = [NodeAddress(number=number) for number in range(1, nodes + 1)]
        network.make(addresses)
        launcher = Launcher(logs=directory / "logs", leashed=leashed)
        compile_daemon()
        fits = shared_memory_fits(nodes)
        machines = [
            new_machine(directory, launcher, address, in_shared_memory=fits)
            for address in addresses
        ]
        with progress.step(f"Kubernetes, registry and {nodes} kernels"):
            plane, registry = _start_machines(directory, binaries, launcher, machines)
        sandbox = cls(
            directory=directory,
            progress=progress,
            launcher=launcher,
            kernel=UmlKernel.find(),
            plane=plane,
            registry=registry,
            kmm_cp=KmmCp(
                directory=directory,
                launcher=launcher,
                plane=plane,
                listening=programs.FOR_NODES,
            ),
        )
        try:
            sandbox._install(machines)
        except BaseException:
            sandbox.stop()
            raise
        return sandbox

    @property
    def control_plane_logs(self) -> list[Path]:
        """JSON lines, one file a start."""
        return self.kmm_cp.logs

    def daemon_logs(self, node: str) -> list[Path]:
        """JSON lines of a node's daemon, one file a boot."""
        machine = self.nodes[node].machine
        logs = (machine.spec.files.daemon_log(boot) for boot in range(1, machine.boot + 1))
        return [log for log in logs if log.exists()]

    def restart_registry(self) -> None:
        """Start the registry that was stopped, with all that it had. Raises SandboxError."""
        self.registry = _start_registry(self.directory, self.launcher)

    def _install(self, machines: Iterable[UmlNode]) -> None:
        with self.progress.step("KMM: CRDs, rights, certificates, control plane"):
            self.kmm_cp.install()
            self.kmm_cp.start()
        with self.progress.step("nodes join, daemons start"):
            for machine in machines:
                self._add(machine)
            wait_until(self.connected, seconds=READY_SECONDS, what="sessions of all daemons")

    def _add(self, machine: UmlNode) -> None:
        kubelet = Kubelet(
            node=machine.spec.name,
            address=machine.spec.address.ip,
            machine=Guest(machine.spec.files.heartbeat),
            api=self.api,
        )
        node = Node(machine=machine, kubelet=kubelet, authority=self.kmm_cp.authority)
        self.nodes[node.name] = node
        node.join()
        node.run_daemon()


def compile_daemon() -> None:
    """Compile the daemon's bytecode on the host: a guest would do it anew at every boot."""
    for package in (kmm_common, kmm_daemon):
        for directory in package.__path__:
            compileall.compile_dir(directory, quiet=2)


def _start_machines(
    directory: Path, binaries: Binaries, launcher: Launcher, machines: list[UmlNode]
) -> tuple[ControlPlane, Registry]:
    """Start Kubernetes, the registry and the kernels side by side."""
    layout = Layout(directory=directory / "kubernetes", ports=Ports())
    with booting([(machine, machine.switch_on) for machine in machines]):
        plane = ControlPlane.start(binaries, layout, leashed=launcher.leashed)
        registry = _start_registry(directory, launcher)
    return plane, registry


def _start_registry(directory: Path, launcher: Launcher) -> Registry:
    return Registry.start(directory / "registry", launcher, host=HOST_ADDRESS, port=REGISTRY_PORT)
