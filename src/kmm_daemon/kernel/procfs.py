"""What the kernel says about its modules: /proc/modules, /sys/module, modules.builtin."""

import asyncio
import io
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kmm_common.errors import TransientError
from kmm_daemon import builds
from kmm_daemon.kernel import notes
from kmm_daemon.values import KernelModule, KernelView, kernel_name

_FILE_NAME = re.compile(r"([^/]+)\.ko(\.gz|\.xz|\.zst)?$")
"""What depmod takes for a module: builds leave x.ko.debug and .x.ko.cmd beside it."""
PERMANENT = "[permanent]"


def parse_modules(text: str) -> dict[str, KernelModule]:
    """Return the rows of /proc/modules by name; lines that are no rows are left out."""
    rows = (_row(line.split()) for line in text.splitlines())
    return {row.name: row for row in rows if row}


def _row(fields: list[str]) -> KernelModule | None:
    """Read `name size refcount users state address [taint]`; "-" stands for nothing."""
    if len(fields) < 5:
        return None
    name, _, refcount, users, state, *rest = fields
    return KernelModule(
        name=name,
        state=state,
        refcount=int(refcount) if re.fullmatch(r"-?\d+", refcount) else 0,
        holders=tuple(user for user in users.split(",") if user not in ("", "-", PERMANENT)),
        taint=rest[1].strip("()+-") if len(rest) > 1 else "",
    )


def permanent(text: str, name: str) -> bool:
    """Tell whether /proc/modules says that a module can never be unloaded: it has no exit."""
    rows = (line.split() for line in text.splitlines())
    return any(len(row) > 3 and row[0] == name and PERMANENT in row[3] for row in rows)


def parse_builtin(text: str) -> frozenset[str]:
    """Return the kernel_names in a modules.builtin: one path of a .ko in each line."""
    matches = (_FILE_NAME.search(line.strip()) for line in text.splitlines())
    return frozenset(kernel_name(match[1]) for match in matches if match)


def file_module(path: str) -> str:
    """Return the kernel_name of a module's file: kernel/x/a-b.ko.xz is a_b; "" for other files."""
    match = _FILE_NAME.search(path)
    return kernel_name(match[1]) if match else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFiles:
    """The files in which the kernel speaks, below a root that tests can choose. Blocking."""

    root: Path = Path("/")
    module_trees: tuple[Path, ...] = (Path("/lib/modules"), Path("/usr/lib/modules"))
    """Directories of the host, without `root`, that have <kernel>/modules.*."""

    @property
    def sys_module(self) -> Path:
        return self.root / "sys/module"

    def modules_text(self) -> str:
        """Return /proc/modules. Raises TransientError."""
        return _read(self.root / "proc/modules")

    def modules(self, parameters_of: frozenset[str] = frozenset()) -> dict[str, KernelModule]:
        """Return what is in the kernel, and which build it is. Raises TransientError."""
        rows = parse_modules(self.modules_text())
        return {
            name: replace(
                row,
                build=self.build(row),
                parameters=self.parameters(name) if name in parameters_of else {},
            )
            for name, row in rows.items()
        }

    def parameters(self, name: str) -> dict[str, str]:
        """Return the parameters of a loaded module that the kernel lets be read."""
        found: dict[str, str] = {}
        # The directory goes with the module, which may be now.
        with suppress(OSError):
            for path in (self.sys_module / name / "parameters").iterdir():
                with suppress(OSError):
                    found[path.name] = path.read_text(errors="replace").strip()
        return found

    def build(self, row: KernelModule) -> str:
        """Return builds.build of a module in the kernel; empty while that cannot be seen."""
        directory = f"{self.sys_module}/{row.name}"
        srcversion = _optional(f"{directory}/srcversion")
        if srcversion or row.state != "Live":
            return srcversion
        build_id = notes.build_id(_optional_bytes(f"{directory}/notes/{notes.SECTION}"))
        # A module that goes loses its srcversion before its notes: by then it is not live.
        live = build_id and _optional(f"{directory}/initstate") == "live"
        return builds.build("", build_id) if live else ""

    def boot_id(self) -> str:
        """Return the id of the running boot. Raises TransientError."""
        return _read(self.root / "proc/sys/kernel/random/boot_id").strip()

    def kernel_version(self) -> str:
        """Return what uname -r prints. Raises TransientError."""
        return _read(self.root / "proc/sys/kernel/osrelease").strip()

    def modules_disabled(self) -> bool:
        """Tell whether kernel.modules_disabled forbids every load and unload until a reboot."""
        return _optional(self.root / "proc/sys/kernel/modules_disabled") == "1"

    def host_modules(self) -> tuple[Path, ...]:
        """Return where the host may have modules for this kernel. Raises TransientError."""
        kernel = self.kernel_version()
        return tuple(self.root / str(tree).lstrip("/") / kernel for tree in self.module_trees)

    def builtin(self) -> frozenset[str]:
        """Return what is compiled into the kernel, as the host's files and /sys/module say."""
        lists = (_optional(tree / "modules.builtin") for tree in self.host_modules())
        return parse_builtin("\n".join(lists)) | self._without_initstate()

    def _without_initstate(self) -> frozenset[str]:
        """Return names in /sys/module that are not loaded modules: these have an initstate.

        Looked at twice, before and after /proc/modules: a module that is just coming or going is
        in neither list for a moment.
        """
        before = self._plain_directories()
        loaded = parse_modules(self.modules_text())
        return frozenset(before & self._plain_directories() - loaded.keys())

    def _plain_directories(self) -> set[str]:
        if not self.sys_module.is_dir():
            return set()
        return {
            directory.name
            for directory in self.sys_module.iterdir()
            if not (directory / "initstate").exists()
        }


class KernelReader:
    """Reads the truth of a moment in a thread: /proc/modules can wait for a lock of the kernel."""

    def __init__(self, files: KernelFiles) -> None:
        self.files = files
        self._constant: tuple[str, str, frozenset[str]] | None = None

    async def view(self, parameters_of: frozenset[str] = frozenset()) -> KernelView:
        """Return what the kernel says now. Raises TransientError."""
        return await asyncio.to_thread(self.look, parameters_of)

    async def modules(self) -> Mapping[str, KernelModule]:
        """Return what is in the kernel now. Raises TransientError."""
        return await asyncio.to_thread(self.files.modules)

    def look(self, parameters_of: frozenset[str]) -> KernelView:
        """Return what view() does, blocking."""
        if self._constant is None:
            files = self.files
            self._constant = (files.boot_id(), files.kernel_version(), files.builtin())
        boot_id, kernel_version, builtin = self._constant
        return KernelView(
            boot_id=boot_id,
            kernel_version=kernel_version,
            modules=self.files.modules(parameters_of),
            builtin=builtin,
        )


def in_use(row: KernelModule) -> bool:
    """Tell whether something holds a module in the kernel."""
    return row.refcount > 0 or bool(row.holders)


def present(names: Iterable[str], modules: Mapping[str, KernelModule]) -> tuple[str, ...]:
    """Return those of the names that are in the kernel, in their order."""
    return tuple(name for name in names if name in modules)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        message = (
            f"cannot read {path}: {error.strerror}; the daemon needs the host's /proc and /sys"
        )
        raise TransientError(message, reason="KernelNotReadable") from error


def _optional(path: Path | str) -> str:
    return _optional_bytes(path).decode(errors="replace").strip()


def _optional_bytes(path: Path | str) -> bytes:
    try:
        # Without a buffer: a look at a host of some hundred modules reads as many files.
        with io.FileIO(path) as file:
            return file.readall()
    except OSError:
        return b""
