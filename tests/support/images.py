"""What tests of the image store share."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kmm_common.desired import DesiredModule, Modprobe, RegistryTLS
from support.layers import KERNEL


def module_for(
    image: str = "r.example/m:1",
    *,
    dir_name: str = "/opt",
    firmware_path: str = "",
    **fields: Any,
) -> DesiredModule:
    """An entry of the desired state; modprobe's fields by their own names."""
    entry = DesiredModule(
        namespace="team",
        name="mod",
        uid="u1",
        kernel_version=KERNEL,
        image=image,
        registry_tls=RegistryTLS(insecure=True),
        modprobe=Modprobe(module_name="a", dir_name=dir_name, firmware_path=firmware_path),
    )
    return replace(entry, **fields)


def listing(root: Path) -> set[str]:
    """Return every file and link of a tree, by path from its root."""
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
