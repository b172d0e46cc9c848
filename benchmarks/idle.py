"""What a daemon with ten loaded Modules takes from its node while nothing happens."""

import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks import nodes
from benchmarks.figures import Figure
from kmm_daemon.settings import Settings
from kmm_sandbox import samples
from kmm_sandbox.outcome import Outcome
from kmm_sandbox.process.node import Node
from kmm_sandbox.process.sandbox import Sandbox

NODES = 3
WINDOW_SECONDS = 120.0
"""Four drift checks and four keepalives."""
KERNEL_MODULES = (
    "cordic", "crc4", "crc64", "crc7", "crc8", "libarc4", "lru_cache", "ts_bm", "ts_fsm", "ts_kmp",
)  # fmt: skip
"""In-tree modules that need no other one."""
CPU_BOUND_PERCENT = 0.2
LOCK = "/run/kmm/daemon.lock"

_SMAPS = re.compile(r"^(Rss|Pss): +(\d+) kB$", re.MULTILINE)
_SWITCHES = re.compile(r"^(?:non)?voluntary_ctxt_switches:\t(\d+)$", re.MULTILINE)
_PYTHON = "import asyncio; print(open('/proc/self/smaps_rollup').read())"
_CHILDREN = "cat /proc/$1/task/*/children"
_LOOK = "cat /proc/$1/smaps_rollup /proc/$1/task/*/status; echo RUN; cat /proc/$1/task/*/schedstat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A process at one moment."""

    rss_mib: float
    pss_mib: float
    switches: int
    cpu_seconds: float


def run() -> list[Figure]:
    """Return the figures of the worst of the nodes."""
    with nodes.sandbox(NODES) as sandbox:
        for node in sandbox.nodes.values():
            _run_at_its_usual_pace(node)
        _load(sandbox)
        daemons = [Daemon(node) for node in sandbox.nodes.values()]
        for daemon in daemons:
            nodes.until(daemon.is_alone, pause=1.0)
        before = [daemon.look() for daemon in daemons]
        started = time.monotonic()
        time.sleep(WINDOW_SECONDS)
        after = [daemon.look() for daemon in daemons]
        seconds = time.monotonic() - started
        python = daemons[0].bare_python_mib()
    return _figures(before, after, seconds, python)


class Daemon:
    """The daemon of a node, seen from beside it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pid = node.execute("cat", LOCK).check().strip()

    def is_alone(self) -> bool:
        """Tell whether no image worker runs any more."""
        return not self._shell(_CHILDREN).strip()

    def look(self) -> Look:
        """Read memory, CPU and wake-ups of all its threads.

        These kernels charge CPU time by ticks of 10 ms, and what the machine has taken from them
        to whoever has the tick.
        """
        told, _, runs = self._shell(_LOOK).partition("RUN\n")
        memory = _mebibytes(told)
        return Look(
            rss_mib=memory["Rss"],
            pss_mib=memory["Pss"],
            switches=sum(map(int, _SWITCHES.findall(told))),
            cpu_seconds=sum(int(line.split()[0]) for line in runs.splitlines()) / 1e9,
        )

    def bare_python_mib(self) -> float:
        """Return the RSS of a Python in that kernel that has asyncio and nothing else."""
        return _mebibytes(self._node.execute(sys.executable, "-c", _PYTHON).check())["Rss"]

    def _shell(self, script: str) -> str:
        return self._node.execute("sh", "-c", script, "sh", self._pid).check()


def _mebibytes(smaps: str) -> dict[str, float]:
    return {name: int(kib) / 1024 for name, kib in _SMAPS.findall(smaps)}


def _run_at_its_usual_pace(node: Node) -> None:
    """Have a node's daemon look at the kernel as often as outside the sandbox."""
    spec = json.loads(json.dumps(node.pod.spec))
    pace = Settings.model_fields["drift_check_seconds"].default
    said = {"name": "KMM_DAEMON_DRIFT_CHECK_SECONDS", "value": str(pace)}
    spec["containers"][0]["env"].append(said)
    node.pod = replace(node.pod, spec=spec)
    before = node.execute("cat", LOCK).stdout
    node.run_daemon()
    nodes.until(lambda: node.execute("cat", LOCK).stdout not in ("", before), pause=0.2)


def _load(sandbox: Sandbox) -> None:
    for name in KERNEL_MODULES:
        image = samples.push(sandbox, name, (name,))
        object_name = name.replace("_", "-")
        sandbox.kubectl.apply(samples.module(object_name, image, name))
    for name in KERNEL_MODULES:
        outcome = Outcome(sandbox, name.replace("_", "-"), name)
        outcome.wait_loaded()
        outcome.wait_settled()


def _figures(
    before: list[Look], after: list[Look], seconds: float, python_mib: float
) -> list[Figure]:
    def median(per_node: Callable[[Look, Look], float]) -> float:
        return statistics.median(map(per_node, before, after))

    modules = f"{len(KERNEL_MODULES)} Modules loaded"
    return [
        Figure(
            figure=f"RSS of an idle daemon, {modules}, worst of {NODES}",
            value=max(look.rss_mib for look in after),
            unit="MiB",
            reference="Python with asyncio alone",
            reference_value=python_mib,
        ),
        Figure(
            figure=f"PSS of an idle daemon, {modules}, worst of {NODES}",
            value=max(look.pss_mib for look in after),
            unit="MiB",
            reference="Python with asyncio alone, RSS",
            reference_value=python_mib,
        ),
        Figure(
            figure=f"CPU of an idle daemon, {modules}, median of {NODES}",
            value=median(lambda a, b: 100 * (b.cpu_seconds - a.cpu_seconds) / seconds),
            unit="% of a core",
            reference="bound",
            reference_value=CPU_BOUND_PERCENT,
        ),
        Figure(
            figure=f"context switches a minute of an idle daemon, median of {NODES}",
            value=median(lambda a, b: 60 * (b.switches - a.switches) / seconds),
            unit="switches",
            reference="one a second",
            reference_value=60.0,
        ),
    ]
