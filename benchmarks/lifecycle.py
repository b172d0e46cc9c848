"""Load, unload and reboot on three real kernels, beside what modprobe alone takes there."""

import time
from collections.abc import Callable

from benchmarks import nodes
from benchmarks.figures import Figure, median_and_worst
from kmm_sandbox import audit, samples
from kmm_sandbox.outcome import Outcome
from kmm_sandbox.process.node import Node
from kmm_sandbox.process.sandbox import Sandbox

ROUNDS = 10
NODES = 3
NAME, KERNEL_MODULE = "slip", "slip"

# In the guest, by its own clock: what the kernel and modprobe take, and nothing of ours.
_MODPROBE = """
set -e
mkdir -p /run/bench/lib/modules /run/bench/conf
ln -sfn "/usr/lib/uml/modules/$(uname -r)" "/run/bench/lib/modules/$(uname -r)"
a=$(date +%s%N); modprobe -C /run/bench/conf -d /run/bench {module}; b=$(date +%s%N)
modprobe -C /run/bench/conf -d /run/bench -r {module}; c=$(date +%s%N)
echo $((b - a)) $((c - b))
"""


def run() -> list[Figure]:
    """Return all figures of one sandbox."""
    with nodes.sandbox(NODES) as sandbox:
        return Lifecycle(sandbox).figures()


class Lifecycle:
    """Rounds over one Module whose image is on every node already."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._outcome = Outcome(sandbox, NAME, KERNEL_MODULE)
        self._image = samples.push(sandbox, NAME, (KERNEL_MODULE,))
        self._loads: list[float] = []
        self._unloads: list[float] = []
        self._reboots: list[float] = []
        self._writes: dict[str, list[float]] = {"load": [], "unload": []}

    def figures(self) -> list[Figure]:
        """Warm up, take the rounds, set them beside modprobe."""
        alone = [_modprobe_alone(node) for node in self._nodes() for _ in range(ROUNDS)]
        loads_alone = [load for load, _ in alone]
        unloads_alone = [unload for _, unload in alone]
        # The first round pulls the image, and is not counted.
        self._counted("load", self._load)
        self._counted("unload", self._unload)
        self._writes = {"load": [], "unload": []}
        for _ in range(ROUNDS):
            self._loads.append(self._counted("load", self._load))
            self._unloads.append(self._counted("unload", self._unload))
        self._load()
        node = self._nodes()[0]
        for _ in range(ROUNDS):
            self._reboots.append(_seconds(lambda: self._reboot(node)))
        seconds = {"unit": "s"}
        return [
            *median_and_worst(
                f"apply to Loaded on {NODES} nodes, warm image",
                self._loads,
                reference="modprobe alone on one node",
                against=loads_alone,
                **seconds,
            ),
            *median_and_worst(
                f"delete to unloaded on {NODES} nodes",
                self._unloads,
                reference="modprobe -r alone on one node",
                against=unloads_alone,
                **seconds,
            ),
            *median_and_worst(
                "power button to reloaded, one node",
                self._reboots,
                reference="modprobe alone on one node",
                against=loads_alone,
                **seconds,
            ),
            *self._write_figures(),
        ]

    def _write_figures(self) -> list[Figure]:
        bounds = {"load": 5.0, "unload": 4.0}
        return [
            Figure(
                figure=f"API writes per node and module, {kind}, worst of {ROUNDS}",
                value=max(self._writes[kind]),
                unit="writes",
                reference="bound",
                reference_value=bound,
            )
            for kind, bound in bounds.items()
        ]

    def _nodes(self) -> list[Node]:
        return list(self._sandbox.nodes.values())

    def _load(self) -> None:
        manifest = samples.module(NAME, self._image, KERNEL_MODULE)
        self._sandbox.kubectl.apply(manifest)
        nodes.until(self._outcome.says_loaded)

    def _unload(self) -> None:
        self._sandbox.kubectl("delete", "module", NAME, "--wait=false")
        nodes.until(self._outcome.says_gone)

    def _reboot(self, node: Node) -> None:
        before = node.boot_id()
        node.reboot()
        nodes.until(lambda: node.boot_id() not in ("", before))
        nodes.until(lambda: self._outcome.says_loaded_since(node.name, node.boot_id()))

    def _counted(self, kind: str, action: Callable[[], None]) -> float:
        """Return the seconds of an action; count its API writes until the Module is settled."""
        log = self._sandbox.plane.layout.audit_log
        before = log.stat().st_size
        taken = _seconds(action)
        if kind == "load":
            self._outcome.wait_loaded()
            self._outcome.wait_settled()
        else:
            self._outcome.wait_gone()
        with log.open("rb") as file:
            file.seek(before)
            lines = file.read().decode().splitlines()
        self._writes[kind].append(audit.counted(lines, nodes=NODES, modules=1).per_pair)
        return taken


def _modprobe_alone(node: Node) -> tuple[float, float]:
    script = _MODPROBE.format(module=KERNEL_MODULE)
    load, unload = node.execute("sh", "-c", script).check().split()
    return int(load) / 1e9, int(unload) / 1e9


def _seconds(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
