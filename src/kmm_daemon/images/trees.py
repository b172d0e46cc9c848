"""A Module's tree: unpacked from layers, checked for its kernel, kept. Blocking."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from kmm_common.clock import Clock
from kmm_common.desired import DesiredModule
from kmm_common.oci.cancellation import Cancellation
from kmm_daemon.images.budget import Budget
from kmm_daemon.images.failures import WithoutKernelError
from kmm_daemon.images.limits import UnpackLimits
from kmm_daemon.images.ready import known_digest, tree_key
from kmm_daemon.images.store import Store
from kmm_daemon.images.unpack import unpack
from kmm_daemon.images.wanted import Wanted, wanted_of


def tree_names(store: Store, modules: Iterable[DesiredModule]) -> frozenset[str]:
    """Return the names of the trees that Modules need."""
    digests = ((module, known_digest(store, module)) for module in modules)
    return frozenset(tree_key(module, digest).name for module, digest in digests if digest)


def make_tree(
    store: Store,
    module: DesiredModule,
    digest: str,
    layers: Sequence[Path],
    limits: UnpackLimits,
    clock: Clock,
    cancellation: Cancellation,
) -> Path:
    """Unpack layers, the lowest first, and return the root of the tree in the store.

    Raises InvalidImageError, WithoutKernelError, and OSError where the disk fails.
    """
    wanted = wanted_of(module)
    budget = Budget(limits, clock, cancellation)
    work = store.new_directory()
    try:
        root = work / "root"
        root.mkdir(mode=0o755)
        kernels = unpack(layers, wanted, root, budget)
        _check_kernel(wanted, root, kernels)
        return store.keep_tree(
            work, tree_key(module, digest), size=budget.written, entries=budget.entries
        )
    finally:
        store.discard(work)


def _check_kernel(wanted: Wanted, root: Path, kernels: tuple[str, ...]) -> None:
    if not (root / wanted.kernels[0]).is_dir():
        raise WithoutKernelError(wanted.kernels[0], kernels)
