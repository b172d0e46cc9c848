"""How long nobody leads when a leader is killed, ends, or is started again alone."""

import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import nodes
from benchmarks.figures import Figure, median_and_worst
from kmm_common.api import names
from kmm_cp.settings import LeaseSettings
from kmm_sandbox import programs
from kmm_sandbox.binaries import find_binaries
from kmm_sandbox.controlplane import ControlPlane, Layout, Ports
from kmm_sandbox.kmmcp import CRDS, RBAC
from kmm_sandbox.kubeapi import KubeApi
from kmm_sandbox.kubelet import NAMESPACE
from kmm_sandbox.manifests import Kubectl
from kmm_sandbox.pki import Authority, Identity
from kmm_sandbox.ports import KeptPorts
from kmm_sandbox.processes import Launcher, Process, wait_until
from kmm_sandbox.progress import Progress

ROUNDS = 5
READY_SECONDS = 60.0
FIRST_PORT = 28443
NODE, KERNEL = "bench", "6.1.0-bench"
STATE = f"/apis/{names.API_VERSION}/{names.NODE_MODULES_STATES}/{NODE}"
MODULES = f"/apis/{names.API_VERSION}/namespaces/default/{names.MODULES}"
IDENTITY = Identity(
    common_name=programs.SERVER_NAME, hosts=(programs.SERVER_NAME, "127.0.0.1"), server=True
)
"""What the replicas' certificate names."""
_IMPORTS = [sys.executable, "-c", "import kmm_cp.cli"]


@dataclass(slots=True, kw_only=True)
class Replica:
    """A kmm-cp process over its lives."""

    name: str
    number: int
    plane: ControlPlane
    directory: Path
    tls: Path
    process: Process | None = None

    @property
    def _metrics(self) -> str:
        return f"127.0.0.1:{FIRST_PORT + 100 + self.number}"

    def start(self) -> None:
        """Start it; do not wait."""
        login = self.plane.kubeconfig_for(programs.USER, programs.GROUPS)
        own = {
            "replica": self.name,
            "listen": f"127.0.0.1:{FIRST_PORT + self.number}",
            "metrics_listen": self._metrics,
        }
        settings = {**programs.control_plane_settings(login, self.tls), **own}
        path = programs.write_settings(self.directory / f"{self.name}.yaml", settings)
        launcher = Launcher(logs=self.directory, leashed=True)
        self.process = launcher.start(self.name, programs.control_plane_argv(path))

    def leads(self) -> bool:
        return b"\nkmm_cp_leader 1.0" in self._get("/metrics")

    def is_ready(self) -> bool:
        return self._get("/readyz") == b"ok\n"

    def end(self, number: signal.Signals) -> None:
        """Send a signal and wait for the end."""
        assert self.process is not None
        self.process.signal(number)
        self.process.popen.wait(READY_SECONDS)

    def _get(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(f"http://{self._metrics}{path}", timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            return b""


def run() -> list[Figure]:
    """Return the figures of one API server and two replicas with the times of the defaults."""
    with _replicas() as (api, replicas):
        _make_objects(api)
        change, chance = Change(api), random.Random(1)  # noqa: S311 a moment, no secret
        killed = [_gap(change, replicas, signal.SIGKILL, chance) for _ in range(ROUNDS)]
        ended = [_gap(change, replicas, signal.SIGTERM, chance) for _ in range(ROUNDS)]
        replicas[1].end(signal.SIGTERM)
        alone = [_restarted(replicas[0]) for _ in range(ROUNDS)]
        imports = [_seconds(lambda: subprocess.run(_IMPORTS, check=True)) for _ in range(ROUNDS)]
    lease = LeaseSettings()
    return [
        *median_and_worst(
            "kill -9 of the leader to the next one's first write",
            killed,
            unit="s",
            reference="lease.duration_seconds",
            against=[lease.duration_seconds],
        ),
        *median_and_worst(
            "SIGTERM to the leader to the next one's first write",
            ended,
            unit="s",
            reference="lease.retry_period_seconds",
            against=[lease.retry_period_seconds],
        ),
        *median_and_worst(
            "start of the only replica until it leads",
            alone,
            unit="s",
            reference="Python with its imports alone",
            against=imports,
        ),
    ]


class Change:
    """Changes the Module, and knows when the node's desired state says so."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._value = 0

    def make(self) -> None:
        self._value += 1
        probe = {"parameters": [f"value={self._value}"]}
        spec = {"moduleLoader": {"container": {"modprobe": probe}}}
        self._api.merge(f"{MODULES}/bench", {"spec": spec})

    def is_published(self) -> bool:
        state = self._api.find(STATE) or {"spec": {}}
        entries = state["spec"].get("modules") or ()
        wanted = [f"value={self._value}"]
        return [each["modprobe"].get("parameters") for each in entries] == [wanted]


def _gap(
    change: Change, replicas: list[Replica], number: signal.Signals, chance: random.Random
) -> float:
    """End the leader and change something; return how long that waits for another leader."""
    nodes.until(lambda: sum(each.leads() for each in replicas) == 1, pause=0.1)
    leader = next(each for each in replicas if each.leads())
    follower = next(each for each in replicas if each is not leader)
    nodes.until(follower.is_ready, pause=0.1)
    assert leader.process is not None
    # Not always right after a look of the follower's.
    time.sleep(chance.uniform(0, 2 * LeaseSettings().retry_period_seconds))
    began = time.perf_counter()
    leader.process.signal(number)
    if number == signal.SIGTERM:
        # What it may still write is not the other one's.
        nodes.until(lambda: not leader.leads())
    change.make()
    nodes.until(change.is_published, pause=0.02)
    taken = time.perf_counter() - began
    leader.end(number)
    leader.start()
    return taken


def _restarted(replica: Replica) -> float:
    replica.end(signal.SIGKILL)

    def start() -> None:
        replica.start()
        nodes.until(replica.leads, pause=0.02)

    return _seconds(start)


def _seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


@contextmanager
def _replicas() -> Iterator[tuple[KubeApi, list[Replica]]]:
    with tempfile.TemporaryDirectory(prefix="kmm-bench-") as scratch, ExitStack() as stack:
        directory = Path(scratch)
        ports = Ports.of(stack.enter_context(KeptPorts()))
        layout = Layout(directory=directory / "kubernetes", ports=ports)
        plane = ControlPlane.start(find_binaries(Progress()), layout, leashed=True)
        stack.callback(plane.stop)
        api = plane.api()
        kubectl = Kubectl(program=plane.binaries.kubectl, kubeconfig=plane.kubeconfig)
        kubectl.apply_crds(sorted(CRDS.glob("*.yaml")))
        api.ensure("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        kubectl.apply(RBAC.read_text())
        tls = directory / "tls"
        authority = Authority("kmm bench")
        authority.issue(IDENTITY).write(tls, "kmm-cp")
        (tls / "ca.crt").write_bytes(authority.credential.cert_pem)
        replicas = [
            Replica(name=name, number=number, plane=plane, directory=directory, tls=tls)
            for number, name in enumerate(("one", "two"))
        ]
        for each in replicas:
            each.start()
            assert each.process is not None
        stack.callback(_kill, replicas)
        for each in replicas:
            wait_until(each.is_ready, seconds=READY_SECONDS, what=f"replica {each.name}")
        yield api, replicas


def _kill(replicas: Iterable[Replica]) -> None:
    for each in replicas:
        if each.process:
            each.process.kill()


def _make_objects(api: KubeApi) -> None:
    """Make a node and a Module for it; the image has its digest, so that no registry is asked."""
    api.create("/api/v1/nodes", {"metadata": {"name": NODE, "labels": {"bench": ""}}})
    info = {"kernelVersion": KERNEL, "bootID": "boot-1", "architecture": "amd64"}
    ready = {"type": "Ready", "status": "True", "reason": "Bench", "message": ""}
    status = {"nodeInfo": info, "conditions": [ready]}
    api.merge(f"/api/v1/nodes/{NODE}/status", {"status": status})
    loader = {
        "modprobe": {"moduleName": "bench"},
        "containerImage": f"registry.example/bench@sha256:{'0' * 64}",
        "kernelMappings": [{"regexp": ".*"}],
    }
    spec = {"selector": {"bench": ""}, "moduleLoader": {"container": loader}}
    head = {"apiVersion": names.API_VERSION, "kind": "Module", "metadata": {"name": "bench"}}
    api.create(MODULES, {**head, "spec": spec})
    nodes.until(lambda: api.find(STATE) is not None, pause=0.05)
