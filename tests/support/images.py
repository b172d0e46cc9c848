"""What tests of the image store share."""

from pathlib import Path

from kmm_common.desired import DesiredModule, Modprobe, RegistryTLS
from support.layers import KERNEL


def module_for(image: str = "r.example/m:1", **fields: object) -> DesiredModule:
    """An entry of the desired state; modprobe's fields by their own names."""
    modprobe = {name: fields.pop(name) for name in ("dir_name", "firmware_path") if name in fields}
    defaults = {
        "namespace": "team",
        "name": "mod",
        "uid": "u1",
        "kernel_version": KERNEL,
        "image": image,
        "registry_tls": RegistryTLS(insecure=True),
        "modprobe": Modprobe(module_name="a", **modprobe),
    }
    return DesiredModule(**{**defaults, **fields})


def listing(root: Path) -> set[str]:
    """Return every file and link of a tree, by path from its root."""
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
