"""What is taken from an image, and how names in its layers map to that: pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from kmm_common.desired import DesiredModule
from kmm_common.oci.errors import InvalidImageError

_PATH_BYTES = 4096
_NAME_BYTES = 255
_DEPTH = 64
_LINKS = 40
_POINT_INSIDE = "point it to a file of the image"
_HOST_TREES = ("lib/modules", "usr/lib/modules")
_KERNEL = re.compile(r"[A-Za-z0-9._+~-]{1,200}", re.ASCII)


class Place(Enum):
    """Where a path lies, seen from what is wanted."""

    INSIDE = auto()
    ABOVE = auto()
    ELSEWHERE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Directories of an image, as paths from its root without a leading slash."""

    kernels: tuple[str, ...]
    """<dirName>/lib/modules/<kernel>, and the same without a trailing plus."""
    firmware: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    """Symbolic links that lead to wanted directories: path to path, both from the root."""

    @property
    def roots(self) -> tuple[str, ...]:
        """The wanted directories, with links followed."""
        paths = (*self.kernels, self.firmware) if self.firmware else self.kernels
        return tuple(dict.fromkeys(follow(path, self.links) for path in paths))

    def is_hosts(self, target: str) -> bool:
        """Tell whether a link's target is where the host has its modules for this kernel.

        Upstream's way to have depmod know what an image's module needs of the kernel's own tree.
        """
        names = (path.rpartition("/")[2] for path in self.kernels)
        return target in {f"{tree}/{name}" for name in names for tree in _HOST_TREES}

    @property
    def modules_directory(self) -> str:
        """<dirName>/lib/modules."""
        return follow(self.kernels[0].rpartition("/")[0], self.links)

    def with_link(self, path: str, target: str) -> "Wanted":
        """Return a copy that also follows this link."""
        links = {**self.links, path: target}
        return Wanted(kernels=self.kernels, firmware=self.firmware, links=links)


def wanted_of(module: DesiredModule) -> Wanted:
    """Return what a Module takes from its image. Raises InvalidImageError, naming the field."""
    base = _directory("modprobe.dirName", module.modprobe.dir_name)
    if not _KERNEL.fullmatch(module.kernel_version) or module.kernel_version in (".", ".."):
        raise InvalidImageError(f"kernelVersion {module.kernel_version!a}: not a kernel's name")
    names = dict.fromkeys((module.kernel_version, module.kernel_version.removesuffix("+")))
    return Wanted(
        kernels=tuple(joined(base, f"lib/modules/{name}") for name in names),
        firmware=_directory("modprobe.firmwarePath", module.modprobe.firmware_path),
    )


def _directory(name: str, path: str) -> str:
    if ".." in path.split("/") or "\0" in path or len(path.encode()) > _PATH_BYTES:
        raise InvalidImageError(f"{name} {shown(path)}: must be a directory's path without '..'")
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def place(path: str, roots: tuple[str, ...]) -> Place:
    """Tell where a path lies; a wanted directory itself is inside."""
    if any(path == root or path.startswith(f"{root}/") for root in roots):
        return Place.INSIDE
    if not path or any(root.startswith(f"{path}/") for root in roots):
        return Place.ABOVE
    return Place.ELSEWHERE


def member_path(name: str) -> str:
    """Return the path from the image's root that a layer's member names.

    Raises InvalidImageError for a name that leads out of the image or that no file can have.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") and parts:
        raise refused(name, "has an absolute path", "write it without the leading slash")
    if ".." in parts:
        raise refused(name, "has '..' in its path", "write its path from the image's root")
    encoded = [part.encode(errors="surrogateescape") for part in parts]
    if "\0" in name or any(len(part) > _NAME_BYTES for part in encoded):
        remedy = f"rename it to at most {_NAME_BYTES} bytes without a zero byte"
        raise refused(name, "has a name that no file can have", remedy)
    if len(parts) > _DEPTH or sum(map(len, encoded)) + len(encoded) > _PATH_BYTES:
        remedy = f"keep to {_DEPTH} directories and {_PATH_BYTES} bytes"
        raise refused(name, "has too long a path", remedy)
    return "/".join(parts)


def link_target(path: str, target: str) -> str:
    """Return the path from the image's root that a symbolic link at `path` points to.

    Raises InvalidImageError if it leads out of the image.
    """
    if "\0" in target or len(target.encode(errors="surrogateescape")) > _PATH_BYTES:
        raise refused(path, "is a link to a name that no file can have", _POINT_INSIDE)
    start = "" if target.startswith("/") else path.rpartition("/")[0]
    parts: list[str] = []
    for part in joined(start, target).split("/"):
        if part == ".." and not parts:
            raise refused(path, f"is a link out of the image, to {shown(target)}", _POINT_INSIDE)
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def follow(path: str, links: Mapping[str, str]) -> str:
    """Return where a path leads when every link on its way is followed."""
    for _ in range(_LINKS):
        via = next((link for link in links if path == link or path.startswith(f"{link}/")), None)
        if via is None:
            return path
        path = joined(links[via], path[len(via) :].lstrip("/"))
    problem = "is reached over symbolic links that go in a circle"
    raise refused(path, problem, "put a directory in place of one of them")


def joined(start: str, rest: str) -> str:
    """Join two paths, either of which may be empty."""
    return f"{start}/{rest}" if start and rest else start or rest


def shown(text: str) -> str:
    """Return a name for a message: short, on one line, and plain ASCII."""
    return ascii(text if len(text) <= 200 else f"{text[:200]}...")


def refused(name: str, problem: str, remedy: str) -> InvalidImageError:
    """Return the error that names a member of a layer, what is wrong with it, and what helps."""
    return InvalidImageError(f"layer member {shown(name)} {problem}; {remedy}")
