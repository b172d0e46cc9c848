"""Files of kernel modules, as tests ask for them."""

from collections.abc import Mapping
from pathlib import Path

from kmm_sandbox.simulated.modulefile import module_file

VERMAGIC = "6.1.176 mod_unload "


def module_bytes(
    fields: Mapping[str, str], *, wide: bool = True, little: bool = True, build_id: str = ""
) -> bytes:
    """Return an ELF file whose .modinfo has the given fields; a build-id in hex goes to a note."""
    return module_file(fields.items(), wide=wide, little=little, build_id=build_id)


def write_module(
    directory: Path,
    name: str,
    *,
    depends: str = "",
    srcversion: str = "",
    build_id: str = "",
    vermagic: str = VERMAGIC,
) -> Path:
    """Write NAME.ko; without a srcversion it has none."""
    fields = {"vermagic": vermagic, "depends": depends, "name": name.replace("-", "_")}
    if srcversion:
        fields["srcversion"] = srcversion
    path = directory / f"{name}.ko"
    path.write_bytes(module_bytes(fields, build_id=build_id))
    return path
