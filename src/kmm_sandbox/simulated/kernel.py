"""A simulated kernel: /proc, /sys and /dev as files below a directory, kmod's programs as code.

What stands above it is the daemon itself. The directory outlives the daemon as a kernel does.
"""

import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from kmm_daemon.builds import BUILD_ID
from kmm_daemon.kernel import modinfo, moduledir
from kmm_daemon.kernel.claims import Claim
from kmm_daemon.kernel.notes import SECTION
from kmm_daemon.kernel.procfs import KernelFiles
from kmm_daemon.kernel.runner import Completed, Deadline, Programs, Runner
from kmm_daemon.values import KernelModule, kernel_name
from kmm_sandbox.simulated.modulefile import note

PROGRAMS = Programs(modprobe="/sbin/modprobe", rmmod="/sbin/rmmod", depmod="/sbin/depmod")
"""None of them is run: whether this machine has them does not matter."""
INIT = "simulated_init"
"""Field of .modinfo: what the module logs when it comes, with parameters by name in braces."""
INFO, WARNING, ERROR = 6, 4, 3
"""Levels of the kernel log."""
_SIZE = 16384
"""What /proc/modules says of every module; the daemon does not look at it."""
_TYPED = re.compile(rb"\0parmtype=(\w+):(\w+)(?=\0)")
_SAYS = re.compile(rb"\0%s=([^\0]*)\0" % INIT.encode())
_NUMBERS = ("byte", "short", "ushort", "int", "uint", "long", "ulong")


class FileKernel(Runner):
    """Stands for kernel and programs; `rows` is what is in the kernel."""

    def __init__(
        self,
        root: Path,
        rows: Iterable[KernelModule] = (),
        needs: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """`needs` names what each module stands on. The files are there already: see boot()."""
        self.root = root
        self.rows = {row.name: row for row in rows}
        self.needs = dict(needs or {})

    @classmethod
    def found(cls, root: Path) -> Self:
        """Return the kernel that a directory's files tell of. Raises TransientError."""
        rows = KernelFiles(root=root).modules()
        needs = {
            name: tuple(below for below, row in rows.items() if name in row.holders)
            for name in rows
        }
        return cls(root, rows.values(), needs)

    @property
    def version(self) -> str:
        """What uname -r prints."""
        return KernelFiles(root=self.root).kernel_version()

    def show(self) -> None:
        """Write /proc/modules and /sys/module."""
        lines = []
        for row in self.rows.values():
            holders = "".join(f"{name}," for name in row.holders) or "-"
            lines.append(f"{row.name} {_SIZE} {row.refcount} {holders} {row.state} 0x0\n")
            directory = self.root / "sys/module" / row.name
            directory.mkdir(exist_ok=True)
            (directory / "initstate").write_text("live\n")
            _show_build(directory, row.build)
        # Others look at any moment.
        whole = self.root / "proc/.modules"
        whole.write_text("".join(lines))
        whole.replace(self.root / "proc/modules")

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
        for row in list(self.rows.values()):
            if name in row.holders:
                left = tuple(each for each in row.holders if each != name)
                self.rows[row.name] = replace(row, refcount=row.refcount - 1, holders=left)
        self.show()
        # At once: a directory without an initstate is one of a module that is built in.
        going = self.root / "sys/.going"
        # A daemon that was killed here has left the one before.
        shutil.rmtree(going, ignore_errors=True)
        (self.root / "sys/module" / name).rename(going)
        shutil.rmtree(going)

    def log(self, level: int, text: str) -> None:
        """Append a record to the kernel log."""
        with (self.root / "dev/kmsg").open("a") as device:
            device.write(f"{level},0,0,-;{text}\n")

    async def run(
        self, argv: Sequence[str], deadline: Deadline, claim: Claim | None = None
    ) -> Completed:
        """Do what a program of kmod does, at once."""
        program = argv[0].rpartition("/")[2]
        if program == "rmmod":
            return self.rmmod(argv[1])
        if program == "depmod":
            write_index(Path(argv[2]) / "lib/modules" / argv[3])
            return Completed()
        tree = Path(argv[argv.index("-d") + 1]) / "lib/modules" / self.version
        names = argv[argv.index("--") + 1 :] if "--" in argv else argv[-1:]
        if "-r" in argv:
            return self._remove(names)
        return self._load(tree, names[0], names[1:])

    def bring(self, name: str, file: Path, parameters: Sequence[str]) -> Completed:
        """Put a file's module in unless it is there, as modprobe does with one of its list."""
        if name in self.rows:
            return Completed()
        types = parameter_types(file)
        if wrong := first_invalid(parameters, types):
            self.log(ERROR, f"{name}: `{wrong[1]}' invalid for parameter `{wrong[0]}'")
            problem = f"modprobe: ERROR: could not insert '{name}': Invalid argument\n"
            return Completed(exit_code=1, stderr=problem)
        info = modinfo.read(file)
        self.needs[name] = info.depends
        self.insert(name, build=info.build)
        self._show_parameters(name, parameters, types)
        if said := what_it_says(file, parameters):
            self.log(INFO, said)
        return Completed()

    def rmmod(self, name: str) -> Completed:
        """Take one module out as rmmod does."""
        row = self.rows.get(name)
        if row is None:
            return Completed(exit_code=1, stderr=f"rmmod: ERROR: Module {name} is not loaded\n")
        if row.refcount:
            return Completed(exit_code=1, stderr=f"rmmod: ERROR: Module {name} is in use\n")
        self.drop(name)
        return Completed()

    def _load(self, tree: Path, name: str, parameters: Sequence[str]) -> Completed:
        content, own = moduledir.read_tree(tree), kernel_name(name)
        for each in (*reversed(content.needs.get(own, ())), own):
            given = parameters if each == own else ()
            done = self.bring(each, tree / content.files[each], given)
            if not done.ok:
                return done
        return Completed()

    def _remove(self, names: Sequence[str]) -> Completed:
        """As modprobe -r does it: with all that is unused then."""
        for name in map(kernel_name, names):
            if self.rmmod(name).exit_code:
                return Completed(exit_code=1, stderr=f"modprobe: FATAL: Module {name} is in use.\n")
            for below in self.needs.get(name, ()):
                self.rmmod(below)
        return Completed()

    def _show_parameters(
        self, name: str, parameters: Sequence[str], types: Mapping[str, str]
    ) -> None:
        directory = self.root / "sys/module" / name / "parameters"
        for key, value in map(_pair, parameters):
            if key in types:
                directory.mkdir(exist_ok=True)
                (directory / key).write_text(f"{value}\n")
            else:
                self.log(WARNING, f"{name}: unknown parameter '{key}' ignored")


def boot(root: Path, *, version: str, boot_id: str) -> None:
    """Make the files of a kernel that has just booted: it has no module."""
    switch_off(root)
    for path in ("proc/sys/kernel/random", "sys/module", "dev"):
        (root / path).mkdir(parents=True)
    (root / "proc/modules").touch()
    (root / "dev/kmsg").touch()
    (root / "proc/sys/kernel/osrelease").write_text(f"{version}\n")
    (root / "proc/sys/kernel/random/boot_id").write_text(f"{boot_id}\n")


def switch_off(root: Path) -> None:
    """Lose what a kernel loses with its power: all of it."""
    for path in ("proc", "sys", "dev"):
        shutil.rmtree(root / path, ignore_errors=True)


def parameter_types(file: Path) -> dict[str, str]:
    """Return the types of a module's parameters by name, as an uncompressed .ko declares them."""
    return {name.decode(): kind.decode() for name, kind in _TYPED.findall(file.read_bytes())}


def what_it_says(file: Path, parameters: Iterable[str]) -> str:
    """Return what a module logs when it comes with these parameters; empty if it says nothing."""
    found = _SAYS.search(file.read_bytes())
    given = defaultdict(lambda: "default", map(_pair, parameters))
    return found[1].decode().format_map(given) if found else ""


def log_lines(root: Path) -> list[str]:
    """Return the kernel log, as dmesg prints it without times."""
    records = (root / "dev/kmsg").read_text().splitlines()
    return [record.partition(";")[2] for record in records]


def first_invalid(parameters: Iterable[str], types: Mapping[str, str]) -> tuple[str, str] | None:
    """Return name and value of the first parameter that is no number and has to be one."""
    for key, value in map(_pair, parameters):
        if types.get(key) in _NUMBERS and not re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)", value):
            return key, value
    return None


def write_index(tree: Path) -> None:
    """Write the modules.dep of the files in a directory, as depmod does."""
    content = moduledir.read_tree(tree)
    lines = []
    for name, path in content.files.items():
        needed = filter(content.files.__contains__, content.needs[name])
        below = " ".join(content.files[each] for each in needed)
        lines.append(f"{path}: {below}\n")
    (tree / "modules.dep").write_text("".join(lines))
    (tree / "modules.dep.bin").write_bytes(b"index")


def _pair(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key, value


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
