"""The modules of a kernel, as a directory with a modules.dep."""

from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import run


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTree:
    """A kernel's version, as uname -r prints it, and the directory of its modules."""

    version: str
    modules: Path

    def dependencies(self) -> dict[str, tuple[str, ...]]:
        """Return, by path below the modules' directory, the paths a module needs: modules.dep."""
        return parse_dependencies((self.modules / "modules.dep").read_text())

    def builtin(self) -> frozenset[str]:
        """Return the names of the modules that are compiled into the kernel."""
        return frozenset(map(module_name, (self.modules / "modules.builtin").read_text().split()))

    def closure(self, names: tuple[str, ...]) -> dict[str, Path]:
        """Return the files of modules, by relative path, with all they need."""
        dependencies = self.dependencies()
        by_name = {module_name(path): path for path in dependencies}
        absent = [name for name in names if name not in by_name]
        if absent:
            raise SandboxError(f"kernel {self.version} has no module {', '.join(absent)}")
        own = [by_name[name] for name in names]
        paths = {path for each in own for path in (each, *dependencies[each])}
        return {path: self.modules / path for path in sorted(paths)}

    def depmod(self, base: Path) -> None:
        """Write the indexes of `base`/lib/modules/<version>. Raises SandboxError."""
        run(["depmod", "-b", str(base), self.version], limit=60)


def parse_dependencies(text: str) -> dict[str, tuple[str, ...]]:
    """Return the content of a modules.dep: what each path needs, nearest first."""
    pairs = (line.partition(":") for line in text.splitlines() if line)
    return {path: tuple(needs.split()) for path, _, needs in pairs}


def module_name(path: str) -> str:
    """Return the kernel's name for a module's file: kernel/a/ppp-x.ko.xz is ppp_x."""
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")
