"""What of an image is on the node already: told without the network."""

from kmm_common.desired import DesiredModule
from kmm_common.oci.errors import InvalidReferenceError
from kmm_common.oci.reference import parse_reference
from kmm_daemon.images.store import Store, TreeKey
from kmm_daemon.values import ReadyImage


def tree_key(module: DesiredModule, digest: str) -> TreeKey:
    """Return the key of what a Module takes from an image."""
    return TreeKey(
        digest=digest,
        kernel=module.kernel_version,
        dir_name=module.modprobe.dir_name,
        firmware_path=module.modprobe.firmware_path,
    )


def known_digest(store: Store, module: DesiredModule) -> str:
    """Return the digest that a Module's image stands for, as far as it is known without asking."""
    return _pinned(module) or store.recall(module.image)


def find_ready(store: Store, module: DesiredModule) -> ReadyImage | None:
    """Return the image of a Module that names its digest, if it is here, whole and unpacked."""
    digest = _pinned(module)
    root = store.tree(tree_key(module, digest)) if digest else None
    return ReadyImage(digest=digest, root=root) if root else None


def _pinned(module: DesiredModule) -> str:
    """Return the digest that an entry names; empty if it names none, or two different ones."""
    try:
        named = parse_reference(module.image).digest
    except InvalidReferenceError:
        return module.image_digest
    if named and module.image_digest and named != module.image_digest:
        return ""
    return module.image_digest or named
