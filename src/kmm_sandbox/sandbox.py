"""The whole cluster: Kubernetes, registry, control plane and nodes, in namespaces of their own."""

import compileall
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import kmm_common
import kmm_daemon
from kmm_common.api import names
from kmm_sandbox import network, programs, xstate
from kmm_sandbox.binaries import Binaries, cache_directory
from kmm_sandbox.controlplane import ControlPlane, Layout, Ports
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.kubeapi import KubeApi
from kmm_sandbox.kubelet import NAMESPACE, SERVICE_ACCOUNT, Kubelet
from kmm_sandbox.manifests import Kubectl
from kmm_sandbox.network import HOST_ADDRESS, NodeAddress
from kmm_sandbox.node import Node
from kmm_sandbox.pki import Authority, Identity
from kmm_sandbox.processes import Launcher, Process, wait_until
from kmm_sandbox.progress import Progress
from kmm_sandbox.registry import Registry
from kmm_sandbox.samples import EVERYWHERE, Placement
from kmm_sandbox.uml import SHM_BYTES_PER_NODE, NodeFiles, NodeSpec, UmlNode
from kmm_sandbox.umlkernel import UmlKernel

REPOSITORY = Path(__file__).resolve().parents[2]
CRDS = REPOSITORY / "crds"
RBAC = REPOSITORY / "manifests/base/rbac.yaml"
ADMISSION = REPOSITORY / "manifests/base/admission.yaml"
REGISTRY_PORT = 5000
CONTROL_PLANE = Identity(
    common_name=programs.SERVER_NAME,
    hosts=(programs.SERVER_NAME, HOST_ADDRESS, "127.0.0.1"),
    server=True,
)
"""What the control plane's certificate names."""
READY_SECONDS = 60.0
STOP_SECONDS = 10.0


@dataclass(slots=True, kw_only=True)
class Sandbox:
    """Started once; must run inside a network namespace of its own."""

    directory: Path
    progress: Progress
    launcher: Launcher
    kernel: UmlKernel
    plane: ControlPlane
    registry: Registry
    authority: Authority
    nodes: dict[str, Node] = field(default_factory=dict)
    control_plane: Process | None = None
    control_plane_starts: int = 0

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
            authority=Authority("kmm development"),
        )
        try:
            sandbox._install(machines)
        except BaseException:
            sandbox.stop()
            raise
        return sandbox

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
        return Kubectl(program=self.plane.binaries.kubectl, kubeconfig=self.plane.kubeconfig)

    @property
    def control_plane_config(self) -> Path:
        """The settings file of kmm-cp."""
        return self.directory / "kmm-cp.json"

    @property
    def control_plane_logs(self) -> list[Path]:
        """JSON lines, one file a start."""
        starts = range(1, self.control_plane_starts + 1)
        return [self.launcher.logs / f"kmm-cp.{number}.log" for number in starts]

    def daemon_logs(self, node: str) -> list[Path]:
        """JSON lines of a node's daemon, one file a boot."""
        machine = self.nodes[node].machine
        logs = (machine.spec.files.daemon_log(boot) for boot in range(1, machine.boot + 1))
        return [log for log in logs if log.exists()]

    def start_control_plane(self) -> None:
        """Start kmm-cp and wait until it is ready. Raises SandboxError."""
        self.control_plane_starts += 1
        self.control_plane = self.launcher.start(
            "kmm-cp",
            programs.control_plane_argv(self.control_plane_config),
            log=self.control_plane_logs[-1],
        )
        wait_until(self._control_plane_ready, seconds=READY_SECONDS, what="kmm-cp")

    def stop_control_plane(self) -> int:
        """Stop kmm-cp as a Pod is stopped; return its exit code."""
        if self.control_plane is None:
            raise SandboxError("kmm-cp does not run")
        code = self.control_plane.stop(grace=STOP_SECONDS)
        self.control_plane = None
        return code

    def kill_control_plane(self) -> None:
        """End kmm-cp without a word, as a lost machine does."""
        if self.control_plane is None:
            raise SandboxError("kmm-cp does not run")
        self.control_plane.kill()
        self.control_plane = None

    def restart_registry(self) -> None:
        """Start the registry that was stopped, with all that it had. Raises SandboxError."""
        self.registry = _start_registry(self.directory, self.launcher)

    def require_alive(self) -> None:
        """Raise SandboxError, saying which, if a part has ended by itself."""
        self.plane.require_alive()
        self.registry.process.require_alive()
        if self.control_plane is not None:
            self.control_plane.require_alive()
        crashed = [name for name, node in self.nodes.items() if node.machine.crashed]
        if crashed:
            raise SandboxError(f"the kernel of {', '.join(crashed)} has ended")

    def stop(self) -> None:
        """End everything at once; what is on disk stays until the directory goes."""
        for node in self.nodes.values():
            node.leave()
        if self.control_plane is not None:
            self.control_plane.kill()
        self.registry.stop()
        self.plane.stop()

    def _install(self, machines: Iterable[UmlNode]) -> None:
        with self.progress.step("KMM: CRDs, rights, certificates, control plane"):
            self.kubectl.apply_crds(sorted(CRDS.glob("*.yaml")))
            namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
            self.api.ensure("/api/v1/namespaces", namespace)
            self.kubectl.apply(RBAC.read_text())
            self.kubectl.apply(ADMISSION.read_text())
            self.plane.wait_for_default_service_account()
            self._write_control_plane_files()
            self.start_control_plane()
        with self.progress.step("nodes join, daemons start"):
            accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
            self.api.ensure(accounts, {"metadata": {"name": SERVICE_ACCOUNT}})
            for machine in machines:
                self._add(machine)
            wait_until(self._connected, seconds=READY_SECONDS, what="sessions of all daemons")

    def _add(self, machine: UmlNode) -> None:
        kubelet = Kubelet(
            node=machine.spec.name,
            address=machine.spec.address.ip,
            heartbeat=machine.spec.files.heartbeat,
            api=self.api,
        )
        node = Node(machine=machine, kubelet=kubelet, authority=self.authority)
        self.nodes[node.name] = node
        node.join()
        node.run_daemon()

    def _write_control_plane_files(self) -> None:
        tls = self.directory / "tls"
        self.authority.issue(CONTROL_PLANE).write(tls, "kmm-cp")
        (tls / "ca.crt").write_bytes(self.authority.credential.cert_pem)
        kubeconfig = self.plane.kubeconfig_for(programs.USER, programs.GROUPS)
        settings = programs.control_plane_settings(kubeconfig, tls)
        programs.write_settings(self.control_plane_config, settings)

    def _connected(self) -> bool:
        """Tell whether every node's NodeModulesState says that its daemon is connected."""
        self.require_alive()
        path = f"/apis/{names.API_VERSION}/{names.NODE_MODULES_STATES}"
        states = {each["metadata"]["name"]: each for each in self.api.items(path)}
        daemons = (states.get(name, {}).get("status", {}).get("daemon") for name in self.nodes)
        return all(daemon and daemon.get("connected") for daemon in daemons)

    def _control_plane_ready(self) -> bool:
        if self.control_plane is not None:
            self.control_plane.require_alive()
        log = self.control_plane_logs[-1]
        return log.exists() and b'"caches synced"' in log.read_bytes()


def compile_daemon() -> None:
    """Compile the daemon's bytecode on the host: a guest would do it anew at every boot."""
    for package in (kmm_common, kmm_daemon):
        for directory in package.__path__:
            compileall.compile_dir(directory, quiet=2)


def new_machine(
    directory: Path, launcher: Launcher, address: NodeAddress, *, in_shared_memory: bool
) -> UmlNode:
    """Return a machine that is switched off, with its files below `directory`."""
    name = f"node{address.number}"
    files = NodeFiles(directory=directory / name)
    files.make()
    sockets = directory / "uml"
    sockets.mkdir(exist_ok=True)
    spec = NodeSpec(
        name=name,
        address=address,
        files=files,
        sockets=sockets,
        tmpdir="" if in_shared_memory else str(directory),
    )
    return UmlNode(spec=spec, launcher=launcher, environment=xstate.preload(cache_directory()))


def shared_memory_fits(nodes: int) -> bool:
    """Tell whether guests' memory fits into /dev/shm; a guest panics when it does not."""
    shared = Path("/dev/shm")  # noqa: S108 (where User-Mode Linux puts it)
    return shared.is_dir() and shutil.disk_usage(shared).free > nodes * SHM_BYTES_PER_NODE


def _start_machines(
    directory: Path, binaries: Binaries, launcher: Launcher, machines: list[UmlNode]
) -> tuple[ControlPlane, Registry]:
    """Start Kubernetes, the registry and the kernels side by side."""
    layout = Layout(directory=directory / "kubernetes", ports=Ports())
    jobs: list[Callable[[], object]] = [machine.switch_on for machine in machines]
    with ThreadPoolExecutor() as pool:
        booting = [pool.submit(job) for job in jobs]
        plane = ControlPlane.start(binaries, layout, leashed=launcher.leashed)
        registry = _start_registry(directory, launcher)
        for future in booting:
            future.result()
    return plane, registry


def _start_registry(directory: Path, launcher: Launcher) -> Registry:
    return Registry.start(directory / "registry", launcher, host=HOST_ADDRESS, port=REGISTRY_PORT)
