"""Which bytes an image reference stands for: resolved by a lookup, kept, or told by a daemon."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from kmm_common.desired import DesiredModule, ModuleRef
from kmm_common.oci.reference import parse_reference
from kmm_cp.policy.truth import is_loaded
from kmm_cp.policy.values import NodeState


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageKey:
    """What an image is resolved for, once."""

    image: str
    kernel_version: str
    module_uid: str


@dataclass(frozen=True, slots=True)
class Pinned:
    """The image stands for this sha256:<hex>."""

    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unresolved:
    """The registry did not tell, for now: nodes find out themselves."""

    reason: str
    """One of kmm_common.api.names.Reason."""
    message: str


@dataclass(frozen=True, slots=True)
class Pending:
    """The registry has not answered yet."""


Resolution = Pinned | Unresolved | Pending
Digests = Callable[[DesiredModule], Resolution]
"""Looks up the image of an entry; two entries with one image_key() have one answer."""


def image_key(entry: DesiredModule) -> ImageKey:
    """Return what an entry's image is resolved for."""
    return ImageKey(image=entry.image, kernel_version=entry.kernel_version, module_uid=entry.uid)


def pinned_digest(entry: DesiredModule, state: NodeState | None, digests: Digests) -> str | Pending:
    """Return the digest to plan an entry with; empty where only the node can find out.

    Without an answer a node keeps the digest that it has for the same image, be it the one that
    its own daemon found out.
    """
    if given := parse_reference(entry.image).digest:
        return given
    resolution = digests(entry)
    if isinstance(resolution, Pinned):
        return resolution.digest
    current = state.entry(entry.ref) if state else None
    if state and current and image_key(current) == image_key(entry):
        return current.image_digest or reported_digest(current, state)
    return resolution if isinstance(resolution, Pending) else ""


def reported_digest(entry: DesiredModule, state: NodeState) -> str:
    """Return the digest that the daemon loaded for a planned entry; empty if it did not."""
    report = state.report_of(entry.ref)
    return report.image_digest if report and is_loaded(entry, report, state) else ""


def known_digests(
    states: Iterable[NodeState], *, only: ModuleRef | None = None
) -> Mapping[ImageKey, str]:
    """Return what images already stand for on nodes, so that every node loads the same bytes.

    What most nodes have wins, then the smaller digest. `only`: the images of one Module.
    """
    counts: dict[ImageKey, Counter[str]] = {}
    for state in states:
        for entry in state.modules if state.intact else ():
            if only not in (None, entry.ref):
                continue
            if digest := entry.image_digest or reported_digest(entry, state):
                counts.setdefault(image_key(entry), Counter())[digest] += 1
    return {key: min(found, key=lambda d: (-found[d], d)) for key, found in counts.items()}
