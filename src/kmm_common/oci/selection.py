"""Which image of an index a platform runs."""

from kmm_common.oci.errors import InvalidImageError
from kmm_common.oci.manifest import Descriptor, Index
from kmm_common.oci.platform import Platform, fitness

_SHOWN = 10


def choose(index: Index, wanted: Platform) -> Descriptor:
    """Return the manifest that suits a platform best, the first of equals.

    Raises InvalidImageError, which lists the platforms there are.
    """
    offers = [(entry, entry.platform) for entry in index.manifests if entry.platform is not None]
    best, score = None, 0
    for entry, platform in offers:
        if (fit := fitness(platform, wanted)) > score:
            best, score = entry, fit
    if best is None:
        there = ", ".join(sorted({str(platform)[:40] for _, platform in offers})[:_SHOWN])
        raise InvalidImageError(
            f"index: has no image for {wanted}, only for: {there or 'none'}; "
            f"push one for {wanted}, or select other nodes"
        )
    return best
