"""An image in an OCI archive: what its manifest and configuration say, and its files."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image; `archive` holds its OCI layout."""

    archive: Path
    digest: str
    """Of the manifest: what `name@digest` is."""
    manifest: Object
    config: Object

    @classmethod
    def read(cls, archive: Path) -> "Image":
        """Read an archive of exactly one image. Raises KeyError, ValueError and TarError."""
        with tarfile.open(archive) as layout:
            (entry,) = json.loads(_content(layout, "index.json"))["manifests"]
            manifest = json.loads(_content(layout, blob(entry["digest"])))
            config = json.loads(_content(layout, blob(manifest["config"]["digest"])))
        return cls(archive=archive, digest=entry["digest"], manifest=manifest, config=config)

    @property
    def compressed_bytes(self) -> int:
        """What a node pulls."""
        return sum(layer["size"] for layer in self.manifest["layers"])

    def layers(self) -> Iterator[tarfile.TarFile]:
        """Yield each layer, lowest first, open until the next is asked for."""
        with tarfile.open(self.archive) as layout:
            for layer in self.manifest["layers"]:
                with tarfile.open(fileobj=_opened(layout, blob(layer["digest"]))) as files:
                    yield files

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Yield what all layers hold."""
        for files in self.layers():
            yield from files

    def texts(self, *, ending: str = "", below: str = "") -> dict[str, str]:
        """Return the files whose path starts and ends so, by path without a leading slash."""
        return {
            member.name: _content(files, member.name)
            for files in self.layers()
            for member in files
            if member.isfile() and member.name.startswith(below) and member.name.endswith(ending)
        }

    def unpack(self, directory: Path) -> None:
        """Write all files, owned as in the image; none is removed by a later layer."""
        for files in self.layers():
            files.extractall(directory, numeric_owner=True, filter="fully_trusted")  # noqa: S202


def blob(digest: str) -> str:
    """Return the path of what has this digest in an OCI layout."""
    return f"blobs/{digest.replace(':', '/', 1)}"


def _content(archive: tarfile.TarFile, name: str) -> str:
    with _opened(archive, name) as file:
        return file.read().decode()


def _opened(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} in an image's archive is no file")
    return file
