"""What a sandbox that plays kubelet needs of the machine."""

from kmm_sandbox import machine
from kmm_sandbox.ended import Ended
from kmm_sandbox.launch import Inner, launch
from kmm_sandbox.progress import Progress

INNER = Inner(module="kmm_sandbox.process.inner")


def obstacle() -> str:
    """Return what keeps such nodes from running here, with the remedy; empty if nothing does."""
    return machine.unfit()


def run(mode: str, *, nodes: int, progress: Progress) -> Ended:
    """Run so many nodes. Raises SandboxError."""
    return launch(mode, nodes=nodes, progress=progress, inner=INNER)
