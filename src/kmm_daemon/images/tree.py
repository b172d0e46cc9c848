"""A directory that is written without ever following a link in it."""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kmm_daemon.images.wanted import refused

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = (
    "is beneath a link or a file of the same image",
    "make that a directory in every layer",
)


class Tree:
    """Files, directories and links beneath a private directory, by path from it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def directory(self, path: str) -> None:
        """Make a directory, in place of anything else that has its path."""
        with self._parent(path) as (parent, name):
            mode = _mode(parent, name)
            if mode is not None and not stat.S_ISDIR(mode):
                os.unlink(name, dir_fd=parent)
            if mode is None or not stat.S_ISDIR(mode):
                os.mkdir(name, 0o755, dir_fd=parent)

    def file(self, path: str, pieces: Iterable[bytes], *, executable: bool) -> None:
        """Write a file, in place of anything that has its path; only 0644 and 0755 exist."""
        with self._parent(path) as (parent, name):
            _remove(parent, name)
            mode = 0o755 if executable else 0o644
            handle = os.open(name, _NEW_FILE, mode, dir_fd=parent)
            with os.fdopen(handle, "wb") as file:
                for piece in pieces:
                    file.write(piece)

    def symlink(self, path: str, target: str) -> None:
        """Make a symbolic link, in place of anything that has its path. Target: from the root.

        The link is relative and, as no link is ever written through, every `..` in it leads to a
        real directory of this tree.
        """
        with self._parent(path) as (parent, name):
            _remove(parent, name)
            start = path.rpartition("/")[0]
            os.symlink(os.path.relpath(f"/{target}", f"/{start}"), name, dir_fd=parent)

    def hardlink(self, path: str, source: str) -> None:
        """Give a regular file of this tree a second path."""
        with self._parent(source) as (source_parent, source_name):
            mode = _mode(source_parent, source_name)
            if mode is None or not stat.S_ISREG(mode):
                problem = "is a hard link to something that is not a file of the image"
                raise refused(path, problem, "put the file itself there")
            if path == source:
                return
            with self._parent(path) as (parent, name):
                _remove(parent, name)
                os.link(
                    source_name,
                    name,
                    src_dir_fd=source_parent,
                    dst_dir_fd=parent,
                    follow_symlinks=False,
                )

    def remove(self, path: str, keep: Collection[str] = ()) -> None:
        """Remove what has this path and all beneath it, but for the paths to keep."""
        self._refuse_beneath_link(path)
        self._prune(path, lambda one: one in keep)

    def clear(self, path: str, keep: Collection[str] = ()) -> None:
        """Remove all beneath a directory, but for the paths to keep."""
        self._refuse_beneath_link(path)
        self._prune(path, lambda one: one == path or one in keep)

    def exists(self, path: str) -> bool:
        """Tell whether something has this path, be it a dangling link."""
        return os.path.lexists(self._root / path)

    def escapes(self) -> str | None:
        """Return the path of a link that leads out of the tree, if there is one."""
        root = self._root.resolve()
        for directory, names, files in os.walk(root):
            for path in (Path(directory, name) for name in (*names, *files)):
                # realpath, as Path.resolve raises where links go in a circle.
                if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                    return str(path.relative_to(root))
        return None

    def _refuse_beneath_link(self, path: str) -> None:
        parts = path.split("/")
        parents = ("/".join(parts[:end]) for end in range(1, len(parts)))
        if any((self._root / parent).is_symlink() for parent in parents):
            raise refused(path, *_BENEATH)

    def _prune(self, path: str, kept: Callable[[str], bool]) -> bool:
        """Remove bottom-up what is not kept; tell whether anything stays."""
        place = self._root / path
        if place.is_symlink() or not place.is_dir():
            if not kept(path):
                place.unlink(missing_ok=True)
            return kept(path)
        names = sorted(entry.name for entry in place.iterdir())
        stays = [self._prune(f"{path}/{name}" if path else name, kept) for name in names]
        if any(stays) or kept(path) or not path:
            return True
        place.rmdir()
        return False

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """Open the directory of a path, component by component, making what is missing."""
        *parents, name = path.split("/")
        handle = os.open(self._root, _DIRECTORY)
        try:
            for part in parents:
                handle = _enter(handle, part, path)
            yield handle, name
        finally:
            os.close(handle)


def _enter(handle: int, part: str, path: str) -> int:
    """Replace the handle of a directory by that of a directory in it."""
    if _mode(handle, part) is None:
        os.mkdir(part, 0o755, dir_fd=handle)
    try:
        inner = os.open(part, _DIRECTORY, dir_fd=handle)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise refused(path, *_BENEATH) from error
        raise
    os.close(handle)
    return inner


def _mode(parent: int, name: str) -> int | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def _remove(parent: int, name: str) -> None:
    mode = _mode(parent, name)
    if mode is not None and stat.S_ISDIR(mode):
        shutil.rmtree(name, dir_fd=parent)
    elif mode is not None:
        os.unlink(name, dir_fd=parent)
