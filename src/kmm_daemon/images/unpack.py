"""The wanted part of an image, put together from its layers."""

import tarfile
from collections.abc import Sequence
from pathlib import Path

from kmm_common.oci.errors import InvalidImageError
from kmm_daemon.images.budget import Budget
from kmm_daemon.images.layers import Layer, open_layer
from kmm_daemon.images.tree import Tree
from kmm_daemon.images.wanted import (
    Place,
    Wanted,
    follow,
    joined,
    link_target,
    member_path,
    place,
    refused,
    shown,
)

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_RESERVED = ".wh..wh."
_KERNELS_SHOWN = 10
_RESTARTS = 16
_SKIPPED_LINKS = frozenset({"build", "source"})
"""Links in lib/modules/<kernel> to the kernel's headers, which no load needs."""


class _LinkOnTheWay(Exception):  # noqa: N818
    """A wanted directory is reached over a link: what was skipped before may be wanted."""

    def __init__(self, path: str, target: str) -> None:
        self.path = path
        self.target = target


def unpack(layers: Sequence[Path], wanted: Wanted, root: Path, budget: Budget) -> tuple[str, ...]:
    """Write the wanted directories of an image into an empty private directory.

    Layers: blobs, the lowest first. Returns what else <dirName>/lib/modules holds, to tell a user
    whose kernel is not there; some of it if there is much. Raises InvalidImageError, which names
    the member that is refused, and OSError where the disk fails.
    """
    tree = Tree(root)
    for _ in range(_RESTARTS):
        try:
            kernels = _apply_all(layers, wanted, tree, budget)
        except _LinkOnTheWay as link:
            wanted = wanted.with_link(link.path, link.target)
            tree.clear("")
            budget.restart()
        else:
            _finish(tree, wanted)
            return kernels
    raise InvalidImageError(
        f"image reaches {shown(wanted.kernels[0])} over too many links; put a directory there"
    )


def _apply_all(
    layers: Sequence[Path], wanted: Wanted, tree: Tree, budget: Budget
) -> tuple[str, ...]:
    kernels: set[str] = set()
    for path in layers:
        with open_layer(path, budget) as layer:
            _Applier(layer, wanted, tree, budget, kernels).apply()
    return tuple(sorted(kernels))


def _finish(tree: Tree, wanted: Wanted) -> None:
    """Add the links that lead to the wanted directories, then look at all links once more."""
    for path, target in wanted.links.items():
        parent, _, name = path.rpartition("/")
        at = joined(follow(parent, wanted.links), name)
        if not tree.exists(at):
            tree.symlink(at, target)
    exact, *others = (follow(path, wanted.links) for path in wanted.kernels)
    for other in others:
        if tree.exists(other) and not tree.exists(exact):
            tree.symlink(exact, other)
    if (escape := tree.escapes()) is not None:
        raise refused(escape, "is a link out of the image", "point it to a file of the image")


class _Applier:
    """Applies one layer on top of those below it."""

    def __init__(
        self, layer: Layer, wanted: Wanted, tree: Tree, budget: Budget, kernels: set[str]
    ) -> None:
        self._layer = layer
        self._wanted = wanted
        self._roots = wanted.roots
        self._modules = wanted.modules_directory
        self._tree = tree
        self._budget = budget
        self._kernels = kernels
        self._added: set[str] = set()
        """Paths of this layer: whiteouts in it hide only what lies below."""

    def apply(self) -> None:
        for member in self._layer:
            self._budget.scan()
            self._member(member)

    def _member(self, member: tarfile.TarInfo) -> None:
        written = member_path(member.name)
        parent, _, name = written.rpartition("/")
        path = joined(follow(parent, self._wanted.links), name)
        if name.startswith(_WHITEOUT):
            self._whiteout(path)
            return
        self._note_kernel(path)
        where = place(path, self._roots)
        if member.issym() and (where is Place.ABOVE or path in self._roots):
            self._link_on_the_way(path, member)
        elif where is Place.ABOVE and not member.isdir():
            self._tree.remove(path, self._added)
        elif where is Place.INSIDE and path not in self._wanted.links:
            self._budget.entry()
            self._write(path, member)
            self._remember(path)

    def _link_on_the_way(self, path: str, member: tarfile.TarInfo) -> None:
        target = link_target(path, member.linkname)
        if not target and path in self._roots:
            remedy = "put the files into a directory and correct dirName or firmwarePath"
            raise refused(member.name, "is a link to the image's root", remedy)
        if self._wanted.links.get(path) != target:
            raise _LinkOnTheWay(path, target)

    def _whiteout(self, path: str) -> None:
        parent, _, name = path.rpartition("/")
        if name == _OPAQUE:
            if place(parent, self._roots) is not Place.ELSEWHERE:
                self._tree.clear(parent, self._added)
            return
        hidden = name.removeprefix(_WHITEOUT)
        if name.startswith(_RESERVED):
            return
        if hidden in ("", ".", ".."):
            raise refused(path, "is a whiteout of nothing", "build that layer anew")
        path = joined(parent, hidden)
        if place(path, self._roots) is not Place.ELSEWHERE:
            self._tree.remove(path, self._added)

    def _write(self, path: str, member: tarfile.TarInfo) -> None:
        if member.isdir():
            self._tree.directory(path)
        elif member.issym():
            self._symlink(path, member)
        elif member.islnk():
            self._hardlink(path, member)
        elif member.isreg() and not member.issparse():
            self._file(path, member)
        else:
            raise refused(member.name, *_kind(member))

    def _file(self, path: str, member: tarfile.TarInfo) -> None:
        self._budget.write(member.size)
        executable = bool(member.mode & 0o111)
        self._tree.file(path, self._layer.content(member), executable=executable)

    def _symlink(self, path: str, member: tarfile.TarInfo) -> None:
        parent, _, name = path.rpartition("/")
        if name in _SKIPPED_LINKS and parent in self._roots:
            return
        target = follow(link_target(path, member.linkname), self._wanted.links)
        if parent in self._roots and self._wanted.is_hosts(target):
            return
        if place(target, self._roots) is not Place.INSIDE:
            raise refused(
                member.name,
                f"is a link to {shown(member.linkname)}, which is outside of {self._taken()}",
                _COPY,
            )
        self._tree.symlink(path, target)

    def _hardlink(self, path: str, member: tarfile.TarInfo) -> None:
        target = follow(member_path(member.linkname), self._wanted.links)
        if place(target, self._roots) is not Place.INSIDE:
            raise refused(
                member.name,
                f"is a hard link to {shown(member.linkname)}, which is outside of {self._taken()}",
                _COPY,
            )
        self._tree.hardlink(path, target)

    def _taken(self) -> str:
        return " and ".join(shown(f"/{root}") for root in self._roots)

    def _remember(self, path: str) -> None:
        parts = path.split("/")
        self._added.update("/".join(parts[:end]) for end in range(1, len(parts) + 1))

    def _note_kernel(self, path: str) -> None:
        if path.startswith(f"{self._modules}/") and len(self._kernels) < _KERNELS_SHOWN:
            self._kernels.add(path[len(self._modules) + 1 :].partition("/")[0])


def _kind(member: tarfile.TarInfo) -> tuple[str, str]:
    """Return what a member is that is never unpacked, and what helps."""
    if member.issparse():
        return "is a sparse file", "store it whole: tar without --sparse"
    return f"is {_KINDS.get(member.type, 'of an unknown kind')}", "leave it out of the image"


_COPY = "put a copy of the file there"
_KINDS = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
}
