"""What a daemon with ten loaded Modules takes from its node while nothing happens."""

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import nodes
from benchmarks.figures import Figure
from kmm_sandbox import samples
from kmm_sandbox.node import Node
from kmm_sandbox.outcome import Outcome
from kmm_sandbox.sandbox import Sandbox

NODES = 3
WINDOW_SECONDS = 120.0
"""Four drift checks and four keepalives."""
KERNEL_MODULES = (
    "cordic", "crc4", "crc64", "crc7", "crc8", "libarc4", "lru_cache", "ts_bm", "ts_fsm", "ts_kmp",
)  # fmt: skip
"""In-tree modules that need no other one."""
RSS_BOUND_MB = 45.0
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

    rss_mb: float
    pss_mb: float
    switches: int
    cpu_seconds: float


def run() -> list[Figure]:
    """Return the figures of the worst of the nodes."""
    with nodes.sandbox(NODES) as sandbox:
        _load(sandbox)
        daemons = [Daemon(node) for node in sandbox.nodes.values()]
        for daemon in daemons:
            nodes.until(daemon.is_alone, pause=1.0)
        before = [daemon.look() for daemon in daemons]
        started = time.monotonic()
        time.sleep(WINDOW_SECONDS)
        after = [daemon.look() for daemon in daemons]
        seconds = time.monotonic() - started
        python = daemons[0].bare_python_mb()
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
        """Read memory, CPU and wake-ups of all its threads."""
        told, _, runs = self._shell(_LOOK).partition("RUN\n")
        memory = _megabytes(told)
        return Look(
            rss_mb=memory["Rss"],
            pss_mb=memory["Pss"],
            switches=sum(map(int, _SWITCHES.findall(told))),
            cpu_seconds=sum(int(line.split()[0]) for line in runs.splitlines()) / 1e9,
        )

    def bare_python_mb(self) -> float:
        """Return the RSS of a Python in that kernel that has asyncio and nothing else."""
        return _megabytes(self._node.execute(sys.executable, "-c", _PYTHON).check())["Rss"]

    def _shell(self, script: str) -> str:
        return self._node.execute("sh", "-c", script, "sh", self._pid).check()


def _megabytes(smaps: str) -> dict[str, float]:
    return {name: int(kib) * 1024 / 1e6 for name, kib in _SMAPS.findall(smaps)}


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
    before: list[Look], after: list[Look], seconds: float, python_mb: float
) -> list[Figure]:
    def most(per_node: Callable[[Look, Look], float]) -> float:
        return max(map(per_node, before, after))

    modules = f"{len(KERNEL_MODULES)} Modules loaded"
    return [
        Figure(
            figure=f"RSS of an idle daemon, {modules}, worst of {NODES}",
            value=max(look.rss_mb for look in after),
            unit="MB",
            reference="Python with asyncio alone",
            reference_value=python_mb,
        ),
        Figure(
            figure=f"PSS of an idle daemon, {modules}, worst of {NODES}",
            value=max(look.pss_mb for look in after),
            unit="MB",
            reference="Python with asyncio alone, RSS",
            reference_value=python_mb,
        ),
        Figure(
            figure=f"CPU of an idle daemon, {modules}, worst of {NODES}",
            value=most(lambda a, b: 100 * (b.cpu_seconds - a.cpu_seconds) / seconds),
            unit="% of a core",
            reference="bound",
            reference_value=CPU_BOUND_PERCENT,
        ),
        Figure(
            figure=f"context switches a minute of an idle daemon, worst of {NODES}",
            value=most(lambda a, b: 60 * (b.switches - a.switches) / seconds),
            unit="switches",
            reference="one a second",
            reference_value=60.0,
        ),
    ]
