"""Files of kernel modules with nothing in them but what a loader reads first."""

import struct
from pathlib import Path

VERMAGIC = "6.1.176 mod_unload "


def module_bytes(*, wide: bool = True, little: bool = True, **fields: str) -> bytes:
    """Return an ELF file whose .modinfo has the given fields."""
    order, word = "<" if little else ">", "Q" if wide else "I"
    modinfo = b"".join(f"{key}={value}".encode() + b"\0" for key, value in fields.items())
    names = b"\0.modinfo\0.shstrtab\0"
    header, entry = (64, 64) if wide else (52, 40)
    table = header + len(modinfo) + len(names)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if little else 2, 1]) + bytes(9)
    elf = ident + struct.pack(
        f"{order}HHI{word}{word}{word}IHHHHHH",
        *(1, 62, 1, 0, 0, table, 0, header, 0, 0, entry, 3, 2),
    )
    sections = ((0, 0, 0), (1, header, len(modinfo)), (10, header + len(modinfo), len(names)))
    layout = f"{order}II{word}{word}{word}{word}II{word}{word}"
    rows = (
        struct.pack(layout, name, 1, 0, 0, offset, size, 0, 0, 0, 0)
        for name, offset, size in sections
    )
    return elf + modinfo + names + b"".join(rows)


def write_module(directory: Path, name: str, *, depends: str = "", srcversion: str = "") -> Path:
    """Write NAME.ko; without a srcversion it has none."""
    fields = {"vermagic": VERMAGIC, "depends": depends, "name": name.replace("-", "_")}
    if srcversion:
        fields["srcversion"] = srcversion
    path = directory / f"{name}.ko"
    path.write_bytes(module_bytes(**fields))
    return path
