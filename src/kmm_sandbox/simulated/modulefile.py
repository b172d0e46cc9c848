"""Files of kernel modules with nothing in them but what a loader reads first."""

import struct
from collections.abc import Iterable, Mapping

NOTES = ".note.gnu.build-id"


def module_file(
    fields: Iterable[tuple[str, str]], *, wide: bool = True, little: bool = True, build_id: str = ""
) -> bytes:
    """Return an ELF file whose .modinfo has the given fields; a build-id in hex goes to a note."""
    order = "<" if little else ">"
    sections = {".modinfo": b"".join(f"{key}={value}".encode() + b"\0" for key, value in fields)}
    if build_id:
        sections[NOTES] = note(bytes.fromhex(build_id), order)
    return _elf(sections, wide, order)


def note(description: bytes, order: str = "=", *, kind: int = 3, name: bytes = b"GNU\0") -> bytes:
    """Return a note of an ELF file."""
    sizes = struct.pack(f"{order}3I", len(name), len(description), kind)
    return sizes + _padded(name) + _padded(description)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def _elf(sections: Mapping[str, bytes], wide: bool, order: str) -> bytes:
    """Return an ELF file of these sections, and a last one with their names."""
    word, header, entry = ("Q", 64, 64) if wide else ("I", 52, 40)
    names, rows, body = b"\0", [(0, 0, 0)], b""
    for name, content in {**sections, ".shstrtab": b""}.items():
        start, names = len(names), names + name.encode() + b"\0"
        content = content or names
        rows.append((start, header + len(body), len(content)))
        body += content
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    top = struct.pack(
        f"{order}HHI{word}{word}{word}IHHHHHH",
        *(1, 62, 1, 0, 0, header + len(body), 0, header, 0, 0, entry, len(rows), len(rows) - 1),
    )
    layout = f"{order}II{word}{word}{word}{word}II{word}{word}"
    table = (
        struct.pack(layout, at, 1, 0, 0, offset, size, 0, 0, 0, 0) for at, offset, size in rows
    )
    return ident + top + body + b"".join(table)
