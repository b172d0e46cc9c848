"""The image store's directory: blobs by digest, unpacked trees by key, what tags stood for.

Everything comes into being under tmp/ and is moved to its place, complete and on disk, by one
rename. Blocking; one process at a time. Methods raise OSError where the disk fails.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from kmm_common.oci.digest import digest_of, hex_of, is_digest
from kmm_common.oci.manifest import Descriptor

_ENTRY_BYTES = 4096
"""What a directory or a small file costs at least."""
_META = "meta.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeKey:
    """What makes two unpacked trees the same."""

    digest: str
    kernel: str
    dir_name: str
    firmware_path: str

    @property
    def name(self) -> str:
        """A file name: the digest of the key."""
        return hex_of(digest_of(json.dumps(asdict(self), sort_keys=True).encode()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something that could be evicted."""

    path: Path
    size: int
    """Bytes on disk."""
    used: float
    """Unix time of the last use."""
    is_tree: bool


class Store:
    """Blobs, trees and tags beneath one directory."""

    def __init__(self, directory: Path) -> None:
        self._blobs = directory / "blobs" / "sha256"
        self._trees = directory / "trees"
        self._tags = directory / "tags"
        self._tmp = directory / "tmp"
        self._directory = directory

    def open(self) -> None:
        """Make the directories, and sweep what a crash has left."""
        for path in (self._directory, self._blobs, self._trees, self._tags, self._tmp):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._tmp.iterdir():
            _delete(left)

    def new_directory(self) -> Path:
        """Return a new empty private directory for work in progress."""
        return Path(tempfile.mkdtemp(dir=self._tmp))

    def discard(self, path: Path) -> None:
        """Delete work in progress."""
        _delete(path)

    def blob(self, digest: str) -> Path:
        """Return where a blob is, if it is there."""
        return self._blobs / hex_of(digest)

    def has(self, descriptor: Descriptor) -> bool:
        """Tell whether a blob is there, whole."""
        try:
            return self.blob(descriptor.digest).stat().st_size == descriptor.size
        except FileNotFoundError:
            return False

    def manifest(self, digest: str) -> bytes | None:
        """Return the bytes of a manifest that is here; None if not, or if they are damaged."""
        try:
            content = self.blob(digest).read_bytes()
        except FileNotFoundError:
            return None
        return content if digest_of(content) == digest else None

    def keep_manifest(self, content: bytes) -> None:
        """Store the bytes of a manifest under their digest."""
        self._write(self.blob(digest_of(content)), content)

    def keep_blob(self, file: Path, digest: str) -> None:
        """Move a downloaded and verified file into the store."""
        _sync(file)
        self._move(file, self.blob(digest))

    def tree(self, key: TreeKey) -> Path | None:
        """Return the root of a complete tree and note its use; None if it is not here."""
        place = self._trees / key.name
        if not (place / _META).is_file():
            return None
        os.utime(place)
        return place / "root"

    def keep_tree(self, work: Path, key: TreeKey, *, size: int, entries: int) -> Path:
        """Move a directory with `root` in it into the store; return where root is now."""
        meta = {**asdict(key), "bytes": size + entries * _ENTRY_BYTES}
        (work / _META).write_text(json.dumps(meta))
        _sync_all(work)
        place = self._trees / key.name
        if not place.exists():
            self._move(work, place)
        return place / "root"

    def remember(self, image: str, digest: str) -> None:
        """Note what a tag stands for on this node."""
        content = json.dumps({"image": image, "digest": digest}).encode()
        self._write(self._tag(image), content)

    def recall(self, image: str) -> str:
        """Return what a tag stood for when it was last asked; empty if it never was."""
        try:
            digest = json.loads(self._tag(image).read_bytes()).get("digest", "")
        except (FileNotFoundError, ValueError):
            return ""
        return digest if is_digest(digest) else ""

    def items(self) -> list[Item]:
        """Return everything that takes space."""
        return [*self._blob_items(), *self._tree_items()]

    def evict(self, item: Item) -> None:
        """Delete an item: a tree is first moved away, so that it is never half there."""
        if item.is_tree:
            away = self.new_directory() / "gone"
            item.path.rename(away)
            _delete(away.parent)
        else:
            item.path.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Return what the file system has left for us."""
        status = os.statvfs(self._directory)
        return status.f_bavail * status.f_frsize

    def _tag(self, image: str) -> Path:
        return self._tags / hashlib.sha256(image.encode()).hexdigest()

    def _blob_items(self) -> Iterator[Item]:
        for path in self._blobs.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                yield Item(path=path, size=status.st_size, used=status.st_mtime, is_tree=False)

    def _tree_items(self) -> Iterator[Item]:
        for path in self._trees.iterdir():
            with contextlib.suppress(FileNotFoundError):
                used = path.stat().st_mtime
                yield Item(path=path, size=_tree_size(path), used=used, is_tree=True)

    def _write(self, place: Path, content: bytes) -> None:
        work = self.new_directory()
        try:
            file = work / "file"
            file.write_bytes(content)
            _sync(file)
            self._move(file, place)
        finally:
            _delete(work)

    def _move(self, source: Path, place: Path) -> None:
        source.rename(place)
        _sync(place.parent)


def evictable(items: Collection[Item], *, keep: Collection[str], surplus: int) -> tuple[Item, ...]:
    """Return what to delete to get rid of `surplus` bytes, or as much as there is.

    Names in `keep` stay. Blobs go before trees, as they can be fetched again and a tree is what
    brings a module back after a reboot; the least recently used first.
    """
    chosen: list[Item] = []
    for item in sorted(items, key=lambda one: (one.is_tree, one.used)):
        if surplus <= 0:
            break
        if item.path.name not in keep:
            chosen.append(item)
            surplus -= item.size
    return tuple(chosen)


def _tree_size(path: Path) -> int:
    try:
        size = json.loads((path / _META).read_bytes())["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return size if isinstance(size, int) else 0


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_all(directory: Path) -> None:
    """Bring a directory and all in it to disk."""
    for parent, _, files in os.walk(directory):
        for file in (Path(parent, name) for name in files):
            if not file.is_symlink():
                _sync(file)
        _sync(Path(parent))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
