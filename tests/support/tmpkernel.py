"""A kernel below a temporary root: /proc and /sys as files, modprobe, rmmod and depmod as code."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kmm_common.desired import DesiredModule, Modprobe
from kmm_daemon.builds import BUILD_ID
from kmm_daemon.kernel import modinfo, moduledir
from kmm_daemon.kernel.claims import Claim
from kmm_daemon.kernel.modprobe import KernelPlaces, ModprobeKernel
from kmm_daemon.kernel.notes import SECTION
from kmm_daemon.kernel.procfs import parse_modules
from kmm_daemon.kernel.runner import Completed, Deadline, Programs, Runner
from kmm_daemon.values import KernelModule, ReadyImage, kernel_name
from support.modulefile import note, write_module

KERNEL = "6.1.176"
PID = 812
"""Of every process."""
PROGRAMS = Programs(modprobe="/sbin/modprobe", rmmod="/sbin/rmmod", depmod="/sbin/depmod")


@dataclass(slots=True, kw_only=True)
class Trouble:
    """What happens instead of a load of one module."""

    completed: Completed = field(default_factory=lambda: Completed(exit_code=1))
    kernel_log: str = ""
    state: str = ""
    """What /proc/modules says of it afterwards; empty: nothing."""


class TmpKernel(Runner):
    """Stands for kernel and programs; `commands` is what was run."""

    def __init__(self, root: Path, rows: Iterable[KernelModule] = ()) -> None:
        self.root = root
        self.rows = {row.name: row for row in rows}
        self.commands: list[list[str]] = []
        self.deadlines: list[Deadline] = []
        self.trouble: dict[str, Trouble] = {}
        self.needs: dict[str, tuple[str, ...]] = {}
        self.held: list[int] = []
        """Descriptors that processes have which do not end."""
        self.removals_stuck: set[str] = set()
        for path in ("proc/sys/kernel/random", "sys/module", "dev", "run", "images"):
            (root / path).mkdir(parents=True, exist_ok=True)
        (root / "proc/sys/kernel/random/boot_id").write_text("boot-1\n")
        (root / "proc/sys/kernel/osrelease").write_text(KERNEL + "\n")
        (root / "dev/kmsg").write_bytes(b"")
        self.show()

    def places(self) -> KernelPlaces:
        return KernelPlaces(
            run=self.root / "run",
            state=self.root / "state",
            firmware=self.root / "firmware",
            root=self.root,
        )

    def kernel(self) -> ModprobeKernel:
        return ModprobeKernel(self.places(), self, PROGRAMS, Deadline())

    def build_in(self, *names: str) -> None:
        tree = self.root / "lib/modules" / KERNEL
        tree.mkdir(parents=True)
        lines = (f"kernel/{name}.ko\n" for name in names)
        (tree / "modules.builtin").write_text("".join(lines))

    def show(self) -> None:
        """Write /proc/modules and /sys/module."""
        lines = []
        for row in self.rows.values():
            holders = "".join(f"{name}," for name in row.holders) or "-"
            lines.append(f"{row.name} 1 {row.refcount} {holders} {row.state} 0x0\n")
            directory = self.root / "sys/module" / row.name
            directory.mkdir(exist_ok=True)
            (directory / "initstate").write_text("live\n")
            _show_build(directory, row.build)
        (self.root / "proc/modules").write_text("".join(lines))

    def insert(self, name: str, *, state: str = "Live", build: str = "") -> None:
        """Put a module into the kernel, above what it needs."""
        self.rows[name] = KernelModule(name=name, state=state, build=build)
        for below in self.needs.get(name, ()):
            row = self.rows[below]
            self.rows[below] = replace(row, refcount=row.refcount + 1, holders=(*row.holders, name))
        self.show()

    def drop(self, name: str) -> None:
        """Take a module out."""
        del self.rows[name]
        _show_build(self.root / "sys/module" / name, "")
        for row in list(self.rows.values()):
            if name in row.holders:
                left = tuple(each for each in row.holders if each != name)
                self.rows[row.name] = replace(row, refcount=row.refcount - 1, holders=left)
        self.show()

    async def run(
        self, argv: Sequence[str], deadline: Deadline, claim: Claim | None = None
    ) -> Completed:
        self.commands.append(list(argv))
        self.deadlines.append(deadline)
        if claim:
            claim.started(PID)
        completed = self._run(argv)
        if claim and completed.stuck:
            self.held.append(os.dup(claim.descriptor))
        return completed

    def end_stuck(self) -> None:
        """Let the processes end that did not."""
        while self.held:
            os.close(self.held.pop())

    def _run(self, argv: Sequence[str]) -> Completed:
        program = argv[0].rpartition("/")[2]
        if program == "rmmod":
            return self._rmmod(argv[1])
        if program == "depmod":
            return self._depmod(Path(argv[2]) / "lib/modules" / argv[3])
        tree = Path(argv[argv.index("-d") + 1]) / "lib/modules" / KERNEL
        names = argv[argv.index("--") + 1 :] if "--" in argv else argv[-1:]
        return self._remove(names) if "-r" in argv else self._load(tree, names[0])

    def _load(self, tree: Path, name: str) -> Completed:
        content = moduledir.read_tree(tree)
        for each in (*reversed(content.needs.get(kernel_name(name), ())), kernel_name(name)):
            if trouble := self.trouble.get(each):
                return self._fail(each, trouble)
            if each not in self.rows:
                info = modinfo.read(tree / content.files[each])
                self.needs[each] = info.depends
                self.insert(each, build=info.build)
        return Completed()

    def _fail(self, name: str, trouble: Trouble) -> Completed:
        with (self.root / "dev/kmsg").open("a") as device:
            device.write(trouble.kernel_log)
        if trouble.state:
            self.insert(name, state=trouble.state)
        return trouble.completed

    def _remove(self, names: Sequence[str]) -> Completed:
        """As modprobe -r does it: with all that is unused then."""
        for name in map(kernel_name, names):
            if self._rmmod(name).exit_code:
                return Completed(exit_code=1, stderr=f"modprobe: FATAL: Module {name} is in use.\n")
            for below in self.needs.get(name, ()):
                self._rmmod(below)
        return Completed()

    def _rmmod(self, name: str) -> Completed:
        if name in self.removals_stuck:
            return Completed(exit_code=None, timed_out=True, stuck=True)
        row = self.rows.get(name)
        if row is None:
            return Completed(exit_code=1, stderr=f"rmmod: ERROR: Module {name} is not loaded\n")
        if row.refcount:
            return Completed(exit_code=1, stderr=f"rmmod: ERROR: Module {name} is in use\n")
        self.drop(name)
        return Completed()

    def _depmod(self, tree: Path) -> Completed:
        write_index(tree)
        return Completed()


def _show_build(directory: Path, build: str) -> None:
    """Have a directory of /sys/module show a builds.build, and no other."""
    build_id = build.removeprefix(BUILD_ID) if build.startswith(BUILD_ID) else ""
    notes = directory / "notes" / SECTION
    notes.parent.mkdir(exist_ok=True)
    shown = {directory / "srcversion": "" if build_id else build, notes: build_id}
    for path, content in shown.items():
        path.unlink(missing_ok=True)
        if content:
            path.write_bytes(note(bytes.fromhex(content)) if path == notes else content.encode())


def write_index(tree: Path) -> None:
    """Write the modules.dep of the files in a directory."""
    content = moduledir.read_tree(tree)
    lines = []
    for name, path in content.files.items():
        needed = filter(content.files.__contains__, content.needs[name])
        below = " ".join(content.files[each] for each in needed)
        lines.append(f"{path}: {below}\n")
    (tree / "modules.dep").write_text("".join(lines))
    (tree / "modules.dep.bin").write_bytes(b"index")


def image(root: Path, files: dict[str, tuple[str, str]], *, indexed: bool = True) -> ReadyImage:
    """Return an image with modules, given as (depends, builds.build) by name."""
    tree = root / "opt/lib/modules" / KERNEL
    tree.mkdir(parents=True)
    for name, (depends, build) in files.items():
        build_id = build.removeprefix(BUILD_ID) if build.startswith(BUILD_ID) else ""
        srcversion = "" if build_id else build
        write_module(tree, name, depends=depends, srcversion=srcversion, build_id=build_id)
    if indexed:
        write_index(tree)
    return ReadyImage(digest=f"sha256:{root.name}", root=root)


def module(name: str, *, in_tree: tuple[str, ...] = (), **modprobe: object) -> DesiredModule:
    """Return a Module that is named as its kernel module is, without underscores."""
    probe = Modprobe(module_name=name, **modprobe)  # type: ignore[arg-type]
    return DesiredModule(
        namespace="ns",
        name=name.replace("_", "-") or "raw",
        uid="uid",
        kernel_version=KERNEL,
        image="registry/image:v1",
        in_tree_modules_to_remove=in_tree,
        modprobe=probe,
    )


def loaded(text: str) -> set[str]:
    """Return the names in a /proc/modules."""
    return set(parse_modules(text))
