"""Runs a sandbox of simulated nodes whole, and says first and last that they are simulated."""

import contextlib
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox import machine, rundirectory
from kmm_sandbox.binaries import Binaries, find_binaries
from kmm_sandbox.demo import Words
from kmm_sandbox.ended import Ended, ended
from kmm_sandbox.lifeline import SIGNALS
from kmm_sandbox.modes import act, attempt
from kmm_sandbox.operations import PlayedOperations
from kmm_sandbox.progress import Progress
from kmm_sandbox.simulated.registry import find_registry
from kmm_sandbox.simulated.sandbox import SimulatedSandbox

ASKED = "they were asked for; this machine can have real kernels"


def obstacle(architecture: str = machine.OWN) -> str:
    """Return what keeps simulated nodes from running here, with the remedy; else empty."""
    if architecture != machine.NEEDED:
        return f"the sandbox's images are for {machine.NEEDED} only: this machine is {architecture}"
    if shutil.which("setpriv") is None:
        return "what is started has to end with the sandbox: install setpriv, of util-linux"
    return ""


def run(mode: str, *, nodes: int, progress: Progress) -> Ended:
    """Run so many simulated nodes. Raises SandboxError."""
    whole = _Whole(mode=mode, nodes=nodes, progress=progress, told=notice(machine.unfit()))
    whole.say()
    binaries, registry_program = find_binaries(progress), find_registry(progress)
    rundirectory.sweep()
    with rundirectory.held() as directory:
        code = whole.run(directory, binaries, registry_program)
        return ended(code, directory, progress)


def notice(obstacle: str) -> list[str]:
    """Return what has to be said of nodes that are simulated, and why they are."""
    return [
        "SIMULATED NODES: no kernel is touched; what modprobe would do is only noted in files",
        f"  why: {obstacle or ASKED}",
        "  real kernels: make sandbox NODES=process, as root (docs/tutorial/sandbox.md)",
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    """One run."""

    mode: str
    nodes: int
    progress: Progress
    told: Sequence[str]

    def say(self) -> None:
        """Say that the nodes are simulated."""
        for line in self.told:
            self.progress.say(line)

    def run(self, directory: Path, binaries: Binaries, registry_program: Path) -> int:
        """Start everything, do what the mode is, end everything; return the exit code."""
        try:
            return attempt(
                directory, self.progress, lambda: self._run(directory, binaries, registry_program)
            )
        finally:
            _ignore_signals()
            # The terminal may be gone.
            with contextlib.suppress(OSError):
                self.progress.say("everything is stopped")
                self.say()

    def _run(self, directory: Path, binaries: Binaries, registry_program: Path) -> int:
        sandbox = SimulatedSandbox.start(
            directory,
            binaries,
            registry_program=registry_program,
            progress=self.progress,
            nodes=self.nodes,
        )
        try:
            return self._act(sandbox)
        finally:
            _ignore_signals()
            sandbox.stop()

    def _act(self, sandbox: SimulatedSandbox) -> int:
        kernel = sandbox.nodes[min(sandbox.nodes)].machine.root
        words = Words(
            commands=f"  cat {kernel}/proc/modules  # what the simulated kernel has\n",
            nodes="\n".join(self.told),
        )
        return act(
            self.mode,
            sandbox,
            PlayedOperations(sandbox),
            self.progress,
            words,
            api_port=lambda: sandbox.plane.layout.ports.api,
        )


def _ignore_signals() -> None:
    """Let nothing keep the end from being whole: it is at once anyway."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
