"""Kinds of nodes, the best first, and which of them this machine can have."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kmm_sandbox.cluster import outer as cluster
from kmm_sandbox.ended import Ended
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.process import outer as process
from kmm_sandbox.progress import Progress
from kmm_sandbox.simulated import run as simulated

AUTO = "auto"
"""The best that this machine can have."""


class Run(Protocol):
    """Runs a sandbox whole, in a mode (`up`, `check`), and says how it ended."""

    def __call__(self, mode: str, *, nodes: int, progress: Progress) -> Ended: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Nodes of one kind."""

    name: str
    what: str
    """What is real in it, in a few words."""
    count: int
    """How many there are if nothing is said."""
    obstacle: Callable[[], str]
    """Says what keeps it from running here, with the remedy; empty if nothing does."""
    run: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The kind that runs, and why none of the better ones does."""

    kind: Kind
    asked: bool = False
    """By its name."""
    passed_over: Mapping[str, str]
    """What is better, by name: its obstacle; empty if it only was not asked for."""

    def told(self) -> list[str]:
        """Return the lines that tell of it."""
        how = "as asked" if self.asked else "the best that this machine can have"
        if not self.asked and not self.passed_over:
            how = "the best there is"
        better = [
            f"  not {name}: {why}" if why else f"  better here: NODES={name}"
            for name, why in self.passed_over.items()
        ]
        return [f"nodes: {self.kind.name} ({how}): {self.kind.what}", *better]


KINDS = (
    Kind(
        name="kubelet",
        what="real kubelets, containerds and kernels; KMM's own images and manifests",
        count=2,
        obstacle=cluster.obstacle,
        run=cluster.run,
    ),
    Kind(
        name="process",
        what="real kernels; the sandbox plays kubelet, and runs KMM without images",
        count=3,
        obstacle=process.obstacle,
        run=process.run,
    ),
    Kind(
        name="simulated",
        what="real daemons on simulated kernels: files, and nothing loaded into a kernel",
        count=3,
        obstacle=simulated.obstacle,
        run=simulated.run,
    ),
)


def choose(asked: str, kinds: Sequence[Kind] = KINDS) -> Choice:
    """Return the kind of a name, or the best that can be had. Raises SandboxError if it cannot."""
    if asked != AUTO:
        return _named(asked, kinds)
    passed_over: dict[str, str] = {}
    for kind in kinds:
        problem = kind.obstacle()
        if not problem:
            return Choice(kind=kind, passed_over=passed_over)
        passed_over[kind.name] = problem
    told = "; ".join(f"{name}: {why}" for name, why in passed_over.items())
    raise SandboxError(f"this machine can have no kind of nodes: {told}", reason="MachineUnfit")


def _named(asked: str, kinds: Sequence[Kind]) -> Choice:
    names = [kind.name for kind in kinds]
    if asked not in names:
        raise SandboxError(
            f"NODES={asked} is no kind of nodes: take {', '.join(names)} or {AUTO}",
            reason="BadSetting",
        )
    place = names.index(asked)
    problem = kinds[place].obstacle()
    if problem:
        raise SandboxError(
            f"NODES={asked} cannot run here: {problem}; NODES={AUTO} takes what can",
            reason="MachineUnfit",
        )
    better = {kind.name: kind.obstacle() for kind in kinds[:place]}
    return Choice(kind=kinds[place], asked=True, passed_over=better)
