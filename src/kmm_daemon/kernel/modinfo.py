"""What a module's file says about itself: .modinfo and build-id of a .ko, compressed or not."""

import gzip
import io
import lzma
import mmap
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from kmm_daemon import builds
from kmm_daemon.kernel import notes
from kmm_daemon.values import kernel_name

MOST_BYTES = 512 * 1024 * 1024
"""Largest unpacked module; debug information makes a GPU driver some 400 MB."""
CHUNK = 1024 * 1024
_ELF = b"\x7fELF"
_MODINFO = ".modinfo"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"


class InvalidModuleFileError(Exception):
    """The file is not a whole kernel module; the text says in what way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleInfo:
    """The fields of a module's file that the daemon looks at; empty where it has none."""

    name: str = ""
    srcversion: str = ""
    build_id: str = ""
    """GNU build-id, in hex."""
    vermagic: str = ""
    depends: tuple[str, ...] = ()
    """kernel_names of what it takes symbols from."""

    @property
    def build(self) -> str:
        return builds.build(self.srcversion, self.build_id)


def read(path: Path) -> ModuleInfo:
    """Return what a .ko, .ko.xz, .ko.gz or .ko.zst says. Raises InvalidModuleFileError, OSError."""
    with path.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(_ELF):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return parse(content)
        return parse(_unpacked(file, magic))


def parse(content: Any) -> ModuleInfo:
    """Return what the bytes of an ELF file say of a module. Raises InvalidModuleFileError."""
    try:
        sections = _sections(content, (_MODINFO, notes.SECTION))
    except struct.error as error:
        raise InvalidModuleFileError("is truncated") from error
    if _MODINFO not in sections:
        raise InvalidModuleFileError("has no .modinfo: it is not a kernel module")
    said = sections[_MODINFO].decode(errors="replace").split("\0")
    # Of two the kernel takes the first: drivers have overridden their vermagic by that.
    entries = (entry.partition("=") for entry in reversed(said))
    build_id = notes.build_id(sections.get(notes.SECTION, b""), _byte_order(content))
    return _info({key: value for key, equals, value in entries if equals}, build_id)


def _info(first: Mapping[str, str], build_id: str) -> ModuleInfo:
    return ModuleInfo(
        name=first.get("name", ""),
        srcversion=first.get("srcversion", ""),
        build_id=build_id,
        vermagic=first.get("vermagic", "").strip(),
        depends=tuple(map(kernel_name, filter(None, first.get("depends", "").split(",")))),
    )


def _sections(content: Any, wanted: Iterable[str]) -> dict[str, bytes]:
    """Return those of the sections that an ELF file has, by name; of two the first."""
    headers, names_index = _section_headers(content)
    if names_index >= len(headers):
        raise InvalidModuleFileError("has a damaged section table")
    names = _bytes(content, headers[names_index][1:])
    found: dict[str, bytes] = {}
    for each in wanted:
        spelled = each.encode() + b"\0"
        place = next((row[1:] for row in headers if names.startswith(spelled, row[0])), None)
        if place:
            found[each] = _bytes(content, place)
    return found


def _section_headers(content: Any) -> tuple[list[tuple[int, int, int]], int]:
    """Return (name offset, file offset, size) of every section, and the index of the names."""
    if content[:4] != _ELF:
        raise InvalidModuleFileError("is not an ELF file")
    wide, order = content[4:5] == b"\x02", _byte_order(content)
    (table,) = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", content, 0x28 if wide else 0x20)
    size, count, names = struct.unpack_from(f"{order}3H", content, 0x3A if wide else 0x2E)
    layout = f"{order}I4x8x8xQQ24x" if wide else f"{order}I4x4x4xII16x"
    if size < struct.calcsize(layout):
        raise InvalidModuleFileError("has a damaged section table")
    rows = _bytes(content, (table, count * size))
    return [struct.unpack_from(layout, rows, i * size) for i in range(count)], names


def _byte_order(content: Any) -> notes.ByteOrder:
    return "<" if content[5:6] == b"\x01" else ">"


def _bytes(content: Any, place: tuple[int, int]) -> bytes:
    offset, size = place
    found: bytes = content[offset : offset + size]
    if len(found) != size:
        raise InvalidModuleFileError("is truncated")
    return found


def _unpacked(file: BinaryIO, magic: bytes) -> bytes:
    stream = _decompressor(file, magic)
    if stream is None:
        raise InvalidModuleFileError("is empty" if not magic else "is not an ELF file")
    content = bytearray()
    try:
        while chunk := stream.read(CHUNK):
            content += chunk
            if len(content) > MOST_BYTES:
                raise InvalidModuleFileError(f"is larger than {MOST_BYTES} bytes when unpacked")
    except _damages(magic) as error:
        raise InvalidModuleFileError(f"cannot be unpacked: {error}") from error
    return bytes(content)


def _decompressor(file: BinaryIO, magic: bytes) -> BinaryIO | io.BufferedIOBase | None:
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(file)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if magic.startswith(_ZSTANDARD):
        # Imported where it is needed: on most nodes it never is, and it takes half a megabyte.
        import zstandard

        reader: BinaryIO = zstandard.ZstdDecompressor().stream_reader(file)
        return reader
    return None


def _damages(magic: bytes) -> tuple[type[Exception], ...]:
    """Return what a decompressor raises for content that is damaged."""
    if magic.startswith(_ZSTANDARD):
        import zstandard

        return (zstandard.ZstdError,)
    return (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error)
