"""The images of a Module by kernel, for its status."""

from collections.abc import Iterable, Mapping
from typing import Any

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule
from kmm_common.oci.reference import parse_reference
from kmm_cp.policy.digests import Digests, ImageKey, Pinned, Unresolved, image_key
from kmm_cp.policy.outcome import Outcome

_ROWS = 256
_MESSAGE = 1024


def images_of(
    outcomes: Iterable[Outcome], digests: Digests, known: Mapping[ImageKey, str]
) -> list[dict[str, Any]]:
    """Return status.images, by kernel; `known` are the digests that nodes have."""
    wanted = {outcome.kernel: outcome.wanted for outcome in outcomes if outcome.wanted}
    return [_row(wanted[kernel], digests, known) for kernel in sorted(wanted)[:_ROWS]]


def _row(entry: DesiredModule, digests: Digests, known: Mapping[ImageKey, str]) -> dict[str, Any]:
    row = {"kernel": entry.kernel_version, "image": entry.image}
    resolution = digests(entry)
    digest = parse_reference(entry.image).digest or known.get(image_key(entry), "")
    if isinstance(resolution, Pinned):
        digest = resolution.digest
    if digest:
        return {**row, "digest": digest, "state": "Exists"}
    if isinstance(resolution, Unresolved):
        missing = resolution.reason == Reason.IMAGE_NOT_FOUND
        state = "Missing" if missing else "Failed"
        return {**row, "state": state, "message": resolution.message[:_MESSAGE]}
    return {**row, "state": "Unknown"}
