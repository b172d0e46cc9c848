"""A layer's members, read one by one within bounds; nothing is written here."""

import contextlib
import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, Protocol, cast

import zstandard

from kmm_common.oci.errors import InvalidImageError
from kmm_daemon.images.budget import Budget

CHUNK = 256 * 1024
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW = 128 * 1024 * 1024

_BROKEN = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    zstandard.ZstdError,
    EOFError,
    # What tarfile raises for headers that it did not expect.
    ValueError,
    OverflowError,
    IndexError,
    KeyError,
    RecursionError,
)


class Layer:
    """An open layer: iterate over its members, read the one at hand. Raises InvalidImageError."""

    def __init__(self, name: str, source: "_Source") -> None:
        self._name = name
        self._source = source
        source.start_headers()
        with self._readable():
            self._tar = tarfile.open(fileobj=cast(BinaryIO, source), mode="r:")  # noqa: SIM115

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        while (member := self._next()) is not None:
            # tarfile remembers every member; a million of them are too many.
            self._tar.members.clear()  # type: ignore[attr-defined]
            yield member

    def content(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        """Yield the content of a regular file, in pieces of at most CHUNK bytes."""
        self._source.start_content()
        reader = self._tar.extractfile(member)
        while reader is not None and (piece := self._piece(reader)):
            yield piece

    def _next(self) -> tarfile.TarInfo | None:
        self._source.start_headers()
        with self._readable():
            return self._tar.next()

    def _piece(self, reader: IO[bytes]) -> bytes:
        with self._readable():
            return reader.read(CHUNK)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except _BROKEN as error:
            raise InvalidImageError(
                f"layer {self._name} is not a readable tar, tar+gzip or tar+zstd archive: "
                f"{ascii(str(error))[:200]}; push the image anew"
            ) from error


@contextlib.contextmanager
def open_layer(path: Path, budget: Budget) -> Iterator[Layer]:
    """Open a layer's blob: tar, tar+gzip or tar+zstd, told apart by its first bytes."""
    with path.open("rb") as blob:
        source = _Source(_decoder(blob), path.stat().st_size, budget)
        yield Layer(f"sha256:{path.name}", source)


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _decoder(blob: io.BufferedReader) -> _Reader:
    magic = blob.peek(len(_ZSTD))
    if magic.startswith(_GZIP):
        return gzip.GzipFile(fileobj=blob)
    if magic.startswith(_ZSTD):
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        return decompressor.stream_reader(blob, read_across_frames=True)
    return blob


class _Source:
    """A forward-only file for tarfile that counts what comes out of the decoder."""

    def __init__(self, decoder: _Reader, compressed: int, budget: Budget) -> None:
        self._decoder = decoder
        self._budget = budget
        limits = budget.limits
        self._most = max(limits.ratio * compressed, limits.ratio_from)
        self._position = 0
        self._headers_left: int | None = None

    def start_headers(self) -> None:
        """Allow no more than the headers of one member to be read into memory."""
        self._headers_left = self._budget.limits.header_bytes

    def start_content(self) -> None:
        """Allow any number of reads; their sizes are the caller's."""
        self._headers_left = None

    def read(self, size: int) -> bytes:
        if self._headers_left is not None:
            self._headers_left -= size
            if self._headers_left < 0:
                raise InvalidImageError(
                    f"layer has a member with more than {self._budget.limits.header_bytes} bytes "
                    "of headers; shorten its names and extended attributes"
                )
        pieces = []
        while size > 0 and (piece := self._piece(size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if position < self._position:
            raise tarfile.ReadError("a member begins before the end of another")
        while self._position < position and self._piece(position - self._position):
            pass
        return self._position

    def _piece(self, size: int) -> bytes:
        piece = self._decoder.read(min(size, CHUNK))
        self._position += len(piece)
        if self._position > self._most:
            raise InvalidImageError(
                f"layer unpacks to more than {self._budget.limits.ratio} times its size; "
                "leave what is all zeros out of the image"
            )
        self._budget.tick()
        return piece
