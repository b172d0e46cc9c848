"""KMM on real kubelets, as tests of other sandboxes ask theirs."""

import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.cluster.cluster import HOST_NODE, Cluster
from kmm_sandbox.cluster.kmm import CONTROL_PLANE, DAEMON
from kmm_sandbox.guestexec import Answer
from kmm_sandbox.kubeapi import KubeApi
from kmm_sandbox.kubelet import NAMESPACE
from kmm_sandbox.manifests import Kubectl
from kmm_sandbox.processes import wait_until
from kmm_sandbox.registry import Registry
from kmm_sandbox.samples import Placement
from kmm_sandbox.umlkernel import UmlKernel
from support.podlogs import PodLogs
from support.workloads import SECONDS

DAEMON_PROGRAM = "/usr/local/bin/kmm-daemon"
"""The entry point of its image."""
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
EXEC_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubelets:
    """A cluster with KMM, and what its Pods have logged."""

    cluster: Cluster
    logs: PodLogs
    before: set[str]
    """What the API server had before KMM: see installation.inventory()."""

    @property
    def nodes(self) -> "dict[str, PodNode]":
        return {name: PodNode(cluster=self.cluster, name=name) for name in self.cluster.nodes}

    @property
    def api(self) -> KubeApi:
        return self.cluster.api

    @property
    def kubectl(self) -> Kubectl:
        return self.cluster.kubectl

    @property
    def kernel(self) -> UmlKernel:
        return self.cluster.kernel

    @property
    def registry(self) -> Registry:
        return self.cluster.registry

    @property
    def placement(self) -> Placement:
        return self.cluster.placement

    @property
    def control_plane_logs(self) -> list[Path]:
        return self.logs.of(HOST_NODE, CONTROL_PLANE)

    def gone(self, replicas: Collection[str]) -> set[str]:
        """Return those of the control plane's Pods that run no more, by their logs' directories."""
        runs = {name for names in running(self.cluster, CONTROL_PLANE).values() for name in names}
        return {replica for replica in replicas if replica.split("_")[1] not in runs}

    def daemon_logs(self, node: str) -> list[Path]:
        return self.logs.of(node, DAEMON)

    def require_alive(self) -> None:
        self.cluster.require_alive()


@dataclass(frozen=True, slots=True, kw_only=True)
class PodNode:
    """A node with a kernel of its own, and the daemon's Pod on it."""

    cluster: Cluster
    name: str

    def loaded_modules(self) -> dict[str, str]:
        return self.cluster.nodes[self.name].loaded_modules()

    def execute(self, *argv: str, stdin: str = "") -> Answer:
        return self.cluster.nodes[self.name].execute(*argv, stdin=stdin)

    def boot_id(self) -> str:
        return self.execute("cat", "/proc/sys/kernel/random/boot_id").check().strip()

    def power_cycle(self) -> None:
        self.cluster.power_cycle(self.name)

    def restart_daemon(self) -> None:
        """Delete the daemon's Pod: the DaemonSet has another one made."""
        self.cluster.kubectl("-n", NAMESPACE, "delete", "pod", self.pod(), "--wait=false")

    def daemon_argv(self, *words: str) -> tuple[str, ...]:
        pod = self.cluster.api.get(f"{PODS}/{self.pod()}")
        (container,) = pod["spec"]["containers"]
        return (DAEMON_PROGRAM, *words, *container["args"])

    def run_in_pod(self, *argv: str) -> Answer:
        """Run a command in the daemon's container."""
        kubectl = self.cluster.kubectl
        login = (str(kubectl.program), "--kubeconfig", str(kubectl.kubeconfig))
        done = subprocess.run(
            [*login, "-n", NAMESPACE, "exec", self.pod(), "--", *argv],
            capture_output=True,
            text=True,
            timeout=EXEC_SECONDS,
            check=False,
        )
        return Answer(code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def pod(self) -> str:
        """Return the name of the daemon's Pod that runs here, once it does."""
        found: list[str] = []

        def runs() -> bool:
            found[:] = running(self.cluster, DAEMON).get(self.name, [])
            return bool(found)

        wait_until(runs, seconds=SECONDS, what=f"a daemon's Pod on {self.name}")
        return found[0]


def running(cluster: Cluster, app: str) -> dict[str, list[str]]:
    """Return the names of a program's Pods that run and are not told to end, by their node.

    Those of a node that has left stay for a minute in the API server.
    """
    pods: dict[str, list[str]] = {}
    nodes = {HOST_NODE, *cluster.nodes}
    for pod in cluster.api.items(f"{PODS}?labelSelector=app.kubernetes.io%2Fname%3D{app}"):
        node, told_to_end = pod["spec"].get("nodeName"), "deletionTimestamp" in pod["metadata"]
        if node in nodes and pod["status"]["phase"] == "Running" and not told_to_end:
            pods.setdefault(node, []).append(pod["metadata"]["name"])
    return pods
