"""ELF notes: the GNU build-id in a module's file, and in what /sys/module shows of a loaded one."""

import struct
from typing import Literal

SECTION = ".note.gnu.build-id"
_GNU = b"GNU\0"
_BUILD_ID = 3
"""NT_GNU_BUILD_ID"""

ByteOrder = Literal["=", "<", ">"]
"""Of the machine, little, big: as struct spells it."""


def build_id(content: bytes, order: ByteOrder = "=") -> str:
    """Return the GNU build-id in a section of notes, in hex; empty if there is none.

    A note is three words, sizes of name and description and a type; then both, padded to words.
    """
    at, header = 0, struct.Struct(f"{order}3I")
    while at + header.size <= len(content):
        name_size, size, kind = header.unpack_from(content, at)
        name = at + header.size
        description = name + _padded(name_size)
        if kind == _BUILD_ID and content[name : name + name_size] == _GNU:
            found = content[description : description + size]
            return found.hex() if len(found) == size else ""
        at = description + _padded(size)
    return ""


def _padded(size: int) -> int:
    return (size + 3) & ~3
