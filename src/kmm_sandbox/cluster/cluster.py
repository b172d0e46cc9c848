"""The whole cluster: control plane with a scheduler, and nodes that run whatever is scheduled."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kmm_sandbox import network
from kmm_sandbox.binaries import Binaries
from kmm_sandbox.cluster import cgroups, images
from kmm_sandbox.cluster.cgroups import Cgroups
from kmm_sandbox.cluster.hostnode import HostNode
from kmm_sandbox.cluster.nodebinaries import NodeBinaries
from kmm_sandbox.cluster.settings import NodeSettings
from kmm_sandbox.cluster.umlnode import OWN_KERNEL, KubeletNode
from kmm_sandbox.controlplane import ControlPlane, Layout, Ports
from kmm_sandbox.kubeapi import KubeApi
from kmm_sandbox.manifests import Kubectl
from kmm_sandbox.network import BRIDGE, HOST_ADDRESS, REGISTRY_PORT, NodeAddress
from kmm_sandbox.pki import Identity
from kmm_sandbox.processes import Launcher, Process, run, wait_until
from kmm_sandbox.progress import Progress
from kmm_sandbox.registry import Registry
from kmm_sandbox.samples import Placement
from kmm_sandbox.uml import booting
from kmm_sandbox.umlkernel import UmlKernel

API_PORT = 443
KUBERNETES_SERVICE = "10.96.0.1"
"""The Service `kubernetes`: an address of this machine's, so that it needs no kube-proxy."""
URL = f"https://{HOST_ADDRESS}:{API_PORT}"
HOST_NODE = "host"
HOST_NUMBER = 0
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
"""Of the network namespace of whoever writes it."""
READY_SECONDS = 300.0
_NODES = "/api/v1/nodes"


@dataclass(slots=True, kw_only=True)
class Cluster:
    """Started once; must run inside namespaces of the sandbox's own."""

    directory: Path
    launcher: Launcher
    plane: ControlPlane
    scheduler: Process
    registry: Registry
    node_binaries: NodeBinaries
    seccomp: Mapping[str, Path]
    """Profiles that nodes have, by their names in Pods."""
    host: HostNode | None = field(default=None)
    nodes: dict[str, KubeletNode] = field(default_factory=dict)
    """Those with kernels of their own."""
    away: dict[str, KubeletNode] = field(default_factory=dict)
    """Such ones that are switched off, and no part of the cluster."""

    @classmethod
    def start(
        cls,
        directory: Path,
        binaries: Binaries,
        node_binaries: NodeBinaries,
        *,
        nodes: int,
        spare: int = 0,
        progress: Progress,
        seccomp: Mapping[str, Path] | None = None,
    ) -> "Cluster":
        """Bring up the control plane, the node on this machine's kernel, and so many others.

        `spare` ones may join later. Raises SandboxError.
        """
        cgroups.sweep()
        addresses = [NodeAddress(number=number) for number in range(1, nodes + spare + 1)]
        make_network(addresses)
        launcher = Launcher(logs=directory / "logs", leashed=False)
        with progress.step("Kubernetes with a scheduler"):
            plane = ControlPlane.start(binaries, layout(directory / "kubernetes"), leashed=False)
            scheduler = launcher.start("kube-scheduler", scheduler_argv(node_binaries, plane))
        cluster = cls(
            directory=directory,
            launcher=launcher,
            plane=plane,
            scheduler=scheduler,
            registry=Registry.start(
                directory / "registry", launcher, host=HOST_ADDRESS, port=REGISTRY_PORT
            ),
            node_binaries=node_binaries,
            seccomp=seccomp or {},
        )
        try:
            plane.wait_for_default_service_account()
            with progress.step(f"node {HOST_NODE}"):
                cluster.start_host()
            with progress.step(f"{nodes} nodes with kernels of their own"):
                cluster._make_nodes(addresses)
                cluster.join(*list(cluster.away)[:nodes])
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @property
    def kernel(self) -> UmlKernel:
        """The one of the nodes that have their own."""
        return UmlKernel.find()

    @property
    def api(self) -> KubeApi:
        """An administrator's requests."""
        return self.plane.api()

    @property
    def placement(self) -> Placement:
        """Where Modules go that are to be on nodes with kernels of their own."""
        return Placement(selector={OWN_KERNEL: ""}, tolerated=OWN_KERNEL)

    @property
    def kubectl(self) -> Kubectl:
        """An administrator's kubectl."""
        return self.plane.kubectl

    def require_alive(self) -> None:
        """Raise SandboxError, saying which, if a part has ended by itself."""
        self.plane.require_alive()
        self.scheduler.require_alive()
        self.registry.process.require_alive()
        if self.host is not None:
            self.host.require_alive()
        for node in self.nodes.values():
            node.require_alive()

    def node_info(self, node: str) -> dict[str, str]:
        """Return what a node's kubelet says of it: kernelVersion, bootID and more."""
        found: dict[str, str] = self.api.get(f"{_NODES}/{node}")["status"]["nodeInfo"]
        return found

    def wait_until_ready(self, node: str, *, booted_after: str = "") -> None:
        """Wait until a node is Ready, in another boot than the one of this id."""
        wait_until(
            lambda: self._is_ready(node) and self.node_info(node)["bootID"] != booted_after,
            seconds=READY_SECONDS,
            what=f"node {node} Ready",
        )

    def power_cycle(self, node: str) -> None:
        """Cut the power of a node, switch it on, wait until it is Ready. Raises SandboxError."""
        before = self.node_info(node)["bootID"]
        self.nodes[node].power_cycle()
        self.wait_until_ready(node, booted_after=before)

    def join(self, *names: str) -> None:
        """Switch nodes on, side by side, and wait until they are Ready. Raises SandboxError."""
        joining = {name: self.away.pop(name) for name in names}
        self.nodes |= joining
        with booting([(node.machine, node.switch_on) for node in joining.values()]):
            pass
        for name in names:
            self.wait_until_ready(name)

    def leave(self, name: str) -> None:
        """Switch a node off for good, as the cluster sees it: its Node is deleted."""
        self.nodes[name].switch_off()
        self.away[name] = self.nodes.pop(name)
        self.api.delete(f"{_NODES}/{name}")

    def start_host(self) -> None:
        """Start the node on this machine's kernel, and wait until it is Ready."""
        # It registers anew: Ready would else be what an earlier kubelet has said.
        self.api.delete(f"{_NODES}/{HOST_NODE}")
        with cgroups.starting():
            own = Cgroups.make()
            settings = NodeSettings(
                directory=self.directory / HOST_NODE, number=HOST_NUMBER, cgroups=own
            )
            self._write_settings(settings, HOST_NODE, HOST_ADDRESS)
            self.host = HostNode.start(
                HOST_NODE,
                HOST_ADDRESS,
                settings=settings,
                cgroups=own,
                binaries=self.node_binaries,
                launcher=self.launcher,
            )
        self.wait_until_ready(HOST_NODE)

    def stop(self) -> None:
        """End everything at once, nodes first."""
        for node in self.nodes.values():
            node.machine.cut_power()
        if self.host is not None:
            self.host.stop()
            self.host = None
        self.registry.stop()
        self.scheduler.kill()
        self.plane.stop()

    def _make_nodes(self, addresses: Sequence[NodeAddress]) -> None:
        """Give each what it starts with."""
        for address in addresses:
            node = KubeletNode.new(
                self.directory, self.launcher, address, self.node_binaries, of=len(addresses)
            )
            self._write_settings(node.settings, node.name, address.ip)
            route_pods(node)
            self.away[node.name] = node

    def _write_settings(self, settings: NodeSettings, name: str, address: str) -> None:
        write_settings(settings, self.plane, name, address)
        for profile, path in self.seccomp.items():
            (settings.seccomp / profile).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, settings.seccomp / profile)

    def _is_ready(self, node: str) -> bool:
        self.require_alive()
        found = self.api.find(f"{_NODES}/{node}")
        conditions = (found or {}).get("status", {}).get("conditions") or ()
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def make_network(nodes: Sequence[NodeAddress]) -> None:
    """Make the sandbox's network, with the address of the Service `kubernetes` on its bridge.

    This machine is the router between the nodes' Pods.
    """
    network.make(nodes)
    FORWARDING.write_text("1")
    run(["ip", "addr", "add", f"{KUBERNETES_SERVICE}/32", "dev", BRIDGE], limit=10)


def route_pods(node: KubeletNode) -> None:
    """Have packets for a node's Pods go to the node."""
    run(["ip", "route", "add", node.settings.pods, "via", node.address.ip], limit=10)


def layout(directory: Path) -> Layout:
    """Return a control plane that nodes and Pods reach, and that reaches kubelets."""
    plain = Layout(directory=directory, ports=Ports(api=API_PORT))
    flags = (
        *("--bind-address", "0.0.0.0", "--advertise-address", HOST_ADDRESS),  # noqa: S104
        *("--endpoint-reconciler-type", "lease"),
        *("--kubelet-client-certificate", f"{plain.pki}/admin.crt"),
        *("--kubelet-client-key", f"{plain.pki}/admin.key"),
        *("--kubelet-certificate-authority", str(plain.ca)),
        *("--kubelet-preferred-address-types", "InternalIP"),
    )
    return Layout(
        directory=directory,
        ports=plain.ports,
        extra_hosts=(HOST_ADDRESS, KUBERNETES_SERVICE),
        apiserver_flags=flags,
    )


def scheduler_argv(node_binaries: NodeBinaries, plane: ControlPlane) -> list[str]:
    """Return kube-scheduler's command line; it serves nothing itself."""
    login = plane.write_kubeconfig(
        plane.layout.directory / "scheduler.kubeconfig",
        "system:kube-scheduler",
        server=plane.layout.url,
    )
    return [
        *(str(node_binaries.scheduler), "--kubeconfig", str(login)),
        *("--secure-port", "0", "--leader-elect=false"),
    ]


def write_settings(settings: NodeSettings, plane: ControlPlane, name: str, address: str) -> None:
    """Write what a node starts with: settings, its certificate, the images."""
    settings.write()
    user, groups = f"system:node:{name}", ("system:nodes",)
    identity = Identity(
        common_name=user, organizations=groups, hosts=(name, address), server=True, client=True
    )
    plane.authority.issue(identity).write(settings.pki, "node")
    (settings.pki / "ca.crt").write_bytes(plane.authority.credential.cert_pem)
    plane.write_kubeconfig(settings.kubeconfig, user, groups, server=URL)
    plane.write_kubeconfig(settings.proxy_kubeconfig, "system:kube-proxy", server=URL)
    (settings.images / "pause.tar").write_bytes(images.pause_archive())
    (settings.images / "busybox.tar").write_bytes(images.busybox_archive())
