"""The modules of the simulated kernel: files without code that say what a real one would do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from kmm_sandbox.kerneltree import KernelTree
from kmm_sandbox.simulated.kernel import INIT, write_index
from kmm_sandbox.simulated.modulefile import module_file

VERSION = "6.1.0-simulated"
"""What uname -r of a simulated node prints."""
VERMAGIC = f"{VERSION} SMP mod_unload "


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """A module as the kernel's own tree has it."""

    depends: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Types by name."""
    says: str = ""
    """What it logs when it comes: parameters by name in braces."""


STOCK = {
    "slhc": Stock(),
    "slip": Stock(
        depends="slhc",
        parameters={"slip_maxdev": "int"},
        says="SLIP: version simulated (max={slip_maxdev})",
    ),
    "ppp_generic": Stock(depends="slhc", says="PPP generic driver version simulated"),
}
"""By name; called as their namesakes of Linux, and on top of each other as those are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedTree(KernelTree):
    """The simulated kernel's modules."""

    @classmethod
    def make(cls, directory: Path) -> "SimulatedTree":
        """Write them into a new directory."""
        directory.mkdir(parents=True)
        for name, module in STOCK.items():
            (directory / f"{name}.ko").write_bytes(module_file(_fields(name, module)))
        write_index(directory)
        return cls(version=VERSION, modules=directory)

    def depmod(self, base: Path) -> None:
        """Write the indexes of `base`/lib/modules/<version>, without the program."""
        write_index(base / "lib/modules" / self.version)


def _fields(name: str, module: Stock) -> Iterator[tuple[str, str]]:
    yield from (("license", "GPL"), ("name", name), ("vermagic", VERMAGIC))
    yield from (("depends", module.depends), ("description", "simulated: it has no code"))
    yield "srcversion", sha256(repr((name, module)).encode()).hexdigest()[:23].upper()
    yield from (("parmtype", f"{key}:{kind}") for key, kind in module.parameters.items())
    if module.says:
        yield INIT, module.says
