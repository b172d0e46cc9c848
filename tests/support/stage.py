"""The sandbox as an e2e test asks it: what a user sees, and what the kernels know."""

import base64
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Generic

import yaml
from typing_extensions import TypeVar

from kmm_common.api import names
from kmm_daemon.values import kernel_name
from kmm_sandbox import kmodimage, samples
from kmm_sandbox.network import REGISTRY_PORT
from kmm_sandbox.outcome import Outcome
from kmm_sandbox.process.node import Node
from kmm_sandbox.process.sandbox import Sandbox
from kmm_sandbox.processes import wait_until
from support import history
from support.kubelets import Kubelets
from support.staged import Staged, StagedNode
from support.verdict import TALLY

S = TypeVar("S", bound=Staged, default=Sandbox, covariant=True)
Cluster = TypeVar("Cluster", bound=Staged)
SECONDS = 90.0
NODES = "/api/v1/nodes"
STATES = f"/apis/{names.API_VERSION}/{names.NODE_MODULES_STATES}"
MODULES = f"/apis/{names.API_VERSION}/namespaces/default/{names.MODULES}"
STORE = "/var/lib/kmm/images"
"""Where a node keeps its images."""


@dataclass(frozen=True, slots=True)
class Stage(Generic[S]):
    """A cluster, with the few questions that these tests ask.

    A plain Stage is on the sandbox. Tests for every kind of nodes take a Stage[Staged].
    """

    sandbox: S

    def apply(
        self, name: str, image: str, module: str, *, parameters: list[str] | None = None
    ) -> Outcome:
        manifest = samples.module(
            name, image, module, parameters or [], placement=self.sandbox.placement
        )
        self.sandbox.kubectl.apply(manifest)
        return Outcome(self.sandbox, name, module)

    def run(
        self,
        name: str,
        image: str,
        modprobe: Mapping[str, Any],
        *,
        container: Mapping[str, Any] | None = None,
        secret: str = "",
    ) -> Outcome:
        """Apply a Module with any field of modprobe and of the container."""
        module, placement = modprobe.get("moduleName", ""), self.sandbox.placement
        manifest = yaml.safe_load(samples.module(name, image, module, placement=placement))
        loader = manifest["spec"]["moduleLoader"]["container"]
        loader |= {"modprobe": dict(modprobe), **(container or {})}
        if secret:
            manifest["spec"]["imageRepoSecret"] = {"name": secret}
        self.sandbox.kubectl.apply(yaml.safe_dump(manifest))
        return Outcome(self.sandbox, name, kernel_name(modprobe.get("moduleName", "")))

    def asked(self, node: StagedNode, path: str) -> tuple[int, str]:
        """Return what the daemon answers on its node: HTTP status and text."""
        program = (
            "import sys, urllib.request as r;"
            "a = r.urlopen(sys.argv[1], timeout=30); print(a.status, a.read().decode())"
        )
        url = f"http://127.0.0.1:8081{path}"
        code, _, text = node.execute(sys.executable, "-c", program, url).check().partition(" ")
        return int(code), text

    def delete(self, name: str, *, wait: bool = True) -> None:
        self.sandbox.kubectl("delete", "module", name, f"--wait={str(wait).lower()}")

    def report(self, node: str, module: str) -> dict[str, Any]:
        """Return what a node says of a Module; empty if nothing."""
        state = self.sandbox.api.find(f"{STATES}/{node}") or {}
        told = (state.get("status") or {}).get("modules") or ()
        return next((each for each in told if each["name"] == module), {})

    def conditions(self, module: str) -> dict[str, dict[str, Any]]:
        found = self.sandbox.api.get(f"{MODULES}/{module}")
        return {each["type"]: each for each in found["status"].get("conditions") or ()}

    def until(self, condition: Callable[[], bool], what: str, *, seconds: float = SECONDS) -> None:
        def checked() -> bool:
            self.sandbox.require_alive()
            return condition()

        wait_until(checked, seconds=seconds, what=what)

    def errors(self, module: str) -> set[str]:
        """Return the reasons that the nodes give for a Module."""
        reports = (self.report(node, module) for node in self.sandbox.nodes)
        return {report.get("error", {}).get("reason", "") for report in reports}

    def steps(self, node: str) -> list[tuple[str, str]]:
        """Return every modprobe of a node's daemon: (load or unload, Module)."""
        facts = (line for log in self.sandbox.daemon_logs(node) for line in history.facts(log))
        return [(line["step"], line["ref"]) for line in facts if line["msg"] == "step started"]

    def wait_failed(self, name: str, reason: str) -> str:
        """Wait until all nodes fail for this reason; return what the first one says."""
        self.until(lambda: self.errors(name) == {reason}, f"all nodes say {reason} of {name}")
        return str(self.report(next(iter(self.sandbox.nodes)), name)["error"]["message"])

    def stop_daemon(self: "Stage", node: str) -> int:
        """Have a node's daemon told to end; return how it ended: -9 if it had to be killed."""
        machine = self.sandbox.nodes[node]
        machine.stop_daemon()
        self.until(lambda: _last_end(machine) is not None, f"the daemon of {node} has ended")
        return int(str(_last_end(machine)))

    def store(self, node: str, directory: str) -> list[str]:
        """Return what a directory of a node's image store has."""
        return sorted(self.sandbox.nodes[node].execute("ls", f"{STORE}/{directory}").stdout.split())

    def parameter(self, node: str, module: str, parameter: str) -> str:
        """Return a parameter of a loaded module as the kernel has it."""
        path = f"/sys/module/{module}/parameters/{parameter}"
        return self.sandbox.nodes[node].execute("cat", path).stdout.strip()

    def initializes(self, node: str, module: str) -> bool:
        """Tell whether a node's kernel is still in the init of a module."""
        return " Loading " in self.sandbox.nodes[node].loaded_modules().get(module, "")

    def daemon_log(self, node: str) -> str:
        """Return all that a node's daemons have logged."""
        return "".join(path.read_text() for path in self.sandbox.daemon_logs(node))

    def control_plane_told(self, message: str, **fields: object) -> list[dict[str, Any]]:
        """Return the lines with a message and these fields that the control plane has logged.

        That is the one that runs: of those before it nothing.
        """
        wanted = {"msg": message, **fields}.items()
        lines = map(json.loads, _lines(self.sandbox.control_plane_logs[-1]))
        return [line for line in lines if wanted <= line.items()]

    def sessions(self, node: str) -> tuple[int, int]:
        """Return how many sessions of a node were opened, and how many of them were closed."""
        opened = {line["session"] for line in self.control_plane_told("session opened", node=node)}
        closed = {line["session"] for line in self.control_plane_told("session closed", node=node)}
        return len(opened), len(opened & closed)

    def no_session(self, node: str) -> list[str]:
        """Return why a node's daemons have said that they have no session, first to last."""
        message = "no session with the control plane"
        texts = [text for log in self.sandbox.daemon_logs(node) for text in _lines(log)]
        return [line["error"] for line in map(json.loads, texts) if line["msg"] == message]

    def daemon_starts(self, node: str) -> int:
        """Return how often a node's daemon has started."""
        return self.daemon_log(node).count('"msg": "daemon started"')

    def labels(self, node: str) -> dict[str, str]:
        """Return the labels of a Node."""
        labels: dict[str, str] = self.sandbox.api.get(f"{NODES}/{node}")["metadata"]["labels"]
        return labels

    def clear(self) -> None:
        """Delete every Module and wait until it is gone."""
        for module in self.sandbox.api.items(MODULES):
            self.sandbox.kubectl("delete", "module", module["metadata"]["name"], "--timeout=90s")

    def lies(self) -> list[str]:
        """Return what a node says to be in its kernel, and is not there."""
        return [lie for node in self.sandbox.nodes for lie in self._lies(node)]

    def _lies(self, node: str) -> list[str]:
        state = self.sandbox.api.find(f"{STATES}/{node}") or {}
        spec, told = state.get("spec") or {}, (state.get("status") or {}).get("modules") or ()
        probes = {entry["name"]: entry["modprobe"] for entry in spec.get("modules") or ()}
        named = [
            (each["name"], probes.get(each["name"], {}).get("moduleName", "").replace("-", "_"))
            for each in told
            if each.get("inKernel")
        ]
        there = self.sandbox.nodes[node].loaded_modules().keys() | self.sandbox.kernel.builtin()
        return [f"{node}: {name} without {own}" for name, own in named if own and own not in there]

    def violations(self) -> list[history.Violation]:
        """Return what the history checker says of all that happened in the sandbox."""
        logs_of_replicas = sorted(self.sandbox.control_plane_logs, key=_replica)
        told = {
            name: [line for log in logs for line in history.facts(log)]
            for name, logs in groupby(logs_of_replicas, key=_replica)
        }
        gone = self.sandbox.gone(told) if isinstance(self.sandbox, Kubelets) else ()
        control_plane = history.merged(told, gone=gone)
        daemons = {
            node: [line for log in self.sandbox.daemon_logs(node) for line in history.facts(log)]
            for node in self.sandbox.nodes
        }
        name = type(self.sandbox).__name__.lower()
        return TALLY.check(name, control_plane, daemons, reachable=self.sandbox.nodes)

    def behind(self) -> list[str]:
        """Return the nodes that have not accepted what was published last for them."""
        return [each.node for each in self.violations() if each.invariant == "live"]


@contextmanager
def on_stage(sandbox: Cluster) -> Iterator[Stage[Cluster]]:
    """Take all Modules away at the end, and assert that nothing was a lie, no promise broken."""
    stage = Stage(sandbox)
    yield stage
    stage.until(lambda: stage.lies() == [], "reports are true")
    stage.clear()
    stage.until(lambda: stage.behind() == [], "every node has what was published last")
    found = stage.violations()
    assert found == [], found


def _replica(log: Path) -> str:
    """Return which replica a log is of: each has a directory."""
    return log.parent.name


def _lines(log: Path) -> list[str]:
    """Return the JSON lines of a log; one that is being written is left out."""
    return [line for line in log.read_text().split("\n")[:-1] if line.startswith("{")]


def _last_end(node: Node) -> int | None:
    """Return how a node's last daemon ended; None while one runs."""
    facts = node.kubelet.facts()
    return facts["daemon_exit_code"] if facts and facts["daemon_pid"] is None else None


@contextmanager
def registry_hangs(sandbox: Sandbox) -> Iterator[None]:
    """Have the registry take connections and say nothing meanwhile."""
    process = sandbox.registry.process
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


def pulls(node: Node) -> bool:
    """Tell whether a node has a connection to the registry."""
    established = f":{REGISTRY_PORT:04X} 01 "
    return established in node.execute("cat", "/proc/net/tcp").check()


def worker_status(node: Node) -> dict[str, str]:
    """Return /proc/<pid>/status of a node's image worker; empty without one."""
    # The pattern does not match the shell's own command line.
    found = node.execute("sh", "-c", "grep -lz 'kmm_daemon.images[.]serve' /proc/[0-9]*/cmdline")
    workers = [line.removesuffix("cmdline") for line in found.stdout.splitlines()]
    return process_status(node, workers[0].split("/")[2]) if workers else {}


def process_status(node: Node, pid: str) -> dict[str, str]:
    """Return /proc/<pid>/status of a process; empty if it has ended."""
    lines = node.execute("cat", f"/proc/{pid}/status").stdout.splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def modprobes(node: Node) -> list[str]:
    """Return the process ids of every modprobe on a node."""
    found = node.execute("sh", "-c", "grep -lx modprobe /proc/[0-9]*/comm").stdout
    return re.findall(r"/proc/(\d+)/", found)


def insert(node: StagedNode, *modules: bytes, instead_of: str = "", suffix: str = "") -> None:
    """Load modules' files on a node, one after the other, as somebody else would.

    `instead_of` is a module that goes first; the daemon may be quick enough to load it again.
    """
    for module in modules:
        file = f"/run/theirs.ko{suffix}"
        node.execute("sh", "-c", f"base64 -d > {file}", stdin=base64.b64encode(module).decode())
        command = f"insmod {file}"
        if instead_of:
            command = f"until rmmod {instead_of} && {command}; do :; done"
        node.execute("sh", "-c", command).check()


def build_in_kernel(node: StagedNode, module: str) -> str:
    """Return a loaded module's srcversion, or its note with the build-id, as the kernel has it."""
    directory = f"/sys/module/{module}"
    srcversion = node.execute("cat", f"{directory}/srcversion").stdout.strip()
    shown = node.execute("od", "-An", "-v", "-tx1", f"{directory}/notes/.note.gnu.build-id")
    return srcversion or shown.check().replace(" ", "").replace("\n", "")


def stock_module(sandbox: samples.Source, name: str) -> bytes:
    """Return the file of a module that came with the kernel."""
    files = sandbox.kernel.closure((name,))
    return next(file.read_bytes() for file in files.values() if file.stem == name)


PREBUILT = Path(__file__).parents[1] / "e2e/modules/prebuilt"


def own_module(kernel: str, name: str, version: str = "v1") -> bytes:
    """Return a kernel module of our own, built for the nodes' kernel."""
    file = PREBUILT / kernel / version / f"{name}.ko"
    assert file.exists(), f"no {name} for Linux {kernel}: make -C tests/e2e/modules"
    return file.read_bytes()


def own_file(kernel: str, name: str, version: str = "v1") -> str:
    """Return the path of such a module, which is the same on the nodes."""
    return str(PREBUILT / kernel / version / f"{name}.ko")


def push_files(sandbox: samples.Source, repository: str, files: Mapping[str, bytes]) -> str:
    """Push an image with exactly these files, by path."""
    built = kmodimage.image(kmodimage.layer(files))
    return kmodimage.push(sandbox.registry, f"kmod/{repository}", "v1", built)


def push_pinned(sandbox: samples.Source, repository: str, files: Mapping[str, bytes]) -> str:
    """Push such an image; name it by its digest, which nobody has to look up."""
    built = kmodimage.image(kmodimage.layer(files))
    kmodimage.push(sandbox.registry, f"kmod/{repository}", "v1", built)
    return f"{sandbox.registry.address}/kmod/{repository}@{built.digest}"


def push_own(sandbox: samples.Source, repository: str, *modules: str, version: str = "v1") -> str:
    extra = {f"{m}.ko": own_module(sandbox.kernel.version, m, version) for m in modules}
    built = kmodimage.image(kmodimage.layer(kmodimage.kmod_files(sandbox.kernel, extra=extra)))
    return kmodimage.push(sandbox.registry, f"kmod/{repository}", version, built)
