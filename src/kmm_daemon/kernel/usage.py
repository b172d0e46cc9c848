"""Who uses a module that nobody holds by name: mounts and processes with its devices open."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

MOST_SHOWN = 5


def users(name: str, root: Path = Path("/")) -> tuple[str, ...]:
    """Return who has a module open, for people: `python3 (process 7) with /dev/ppp`. Blocking.

    Best effort: it sees what /proc shows, which without the host's process ids is not much.
    """
    found: list[str] = []
    for user in (*_mounts(name, root), *_processes(name, root)):
        if user not in found:
            found.append(user)
        if len(found) > MOST_SHOWN:
            return (*found[:MOST_SHOWN], "others")
    return tuple(found)


def _mounts(name: str, root: Path) -> Iterator[str]:
    """Yield the mounts of a file system that the module brings: it has the module's name."""
    for pid in ("1", "self"):
        for line in _text(root / "proc" / pid / "mountinfo").splitlines():
            before, _, after = line.partition(" - ")
            fields, kind = before.split(), after.split(" ")[0]
            if len(fields) > 4 and kind.replace("-", "_") == name:
                yield f"the mount at {fields[4]}"


def _processes(name: str, root: Path) -> Iterator[str]:
    for directory in sorted((root / "proc").glob("[0-9]*")):
        for descriptor in _entries(directory / "fd"):
            path = _path(descriptor)
            # Any other file's own file system would be asked, which may hang for ever, as NFS does.
            device = _device(descriptor) if path.startswith("/dev/") else ""
            if device and name in _modules_of(device, root):
                program = _text(directory / "comm").strip() or "unknown"
                yield f"{program} (process {directory.name}) with {path}"


def _path(descriptor: Path) -> str:
    """Return what an open file is called where it was opened; empty if it was closed meanwhile."""
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""


def _device(descriptor: Path) -> str:
    """Return char/<major>:<minor> or block/... of an open device, empty for other files."""
    try:
        status = descriptor.stat()
    except OSError:
        return ""
    for kind, test in (("char", stat.S_ISCHR), ("block", stat.S_ISBLK)):
        if test(status.st_mode):
            return f"{kind}/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return ""


def _modules_of(device: str, root: Path) -> frozenset[str]:
    """Return names under which sysfs knows a device: its own, its class's, its driver's module.

    Virtual devices have no driver: there the name is all there is, as in ppp for ppp_generic.
    """
    place = Path(os.path.realpath(root / "sys/dev" / device))
    names = [place.name, os.path.basename(os.path.realpath(place / "subsystem"))]  # noqa: PTH119
    module = place / "device/driver/module"
    if module.exists():
        return frozenset((module.resolve().name,))
    plain = {re.sub(r"[-\d]+$", "", name).replace("-", "_") for name in names}
    return frozenset(plain | {f"{name}_generic" for name in plain})


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
