"""The User-Mode Linux kernel of this machine and its modules."""

from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.kerneltree import KernelTree
from kmm_sandbox.processes import run

PROGRAM = "linux.uml"
TREES = Path("/usr/lib/uml/modules")


@dataclass(frozen=True, slots=True, kw_only=True)
class UmlKernel(KernelTree):
    """The kernel of nodes that are machines of their own."""

    @classmethod
    def find(cls) -> "UmlKernel":
        """Return the installed kernel. Raises SandboxError."""
        version = run([PROGRAM, "--version"], limit=30).strip()
        modules = TREES / version
        if not (modules / "modules.dep").exists():
            raise SandboxError(
                f"{PROGRAM} is {version}, but {modules} has no modules.dep:"
                " apt-get install --reinstall user-mode-linux"
            )
        return cls(version=version, modules=modules)
