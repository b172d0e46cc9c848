"""Which update brings a daemon to its target: pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from kmm_common.desired import DesiredModule, ModuleRef
from kmm_cp.serving.values import Journaled, Target

NOTHING = Journaled()


class Kind(StrEnum):
    """How an update carries the desired state."""

    SNAPSHOT = "snapshot"
    UNCHANGED = "unchanged"
    DIFF = "diff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """What is to be sent."""

    kind: Kind
    base_generation: int = 0
    upserts: Sequence[DesiredModule] = ()
    removals: Sequence[ModuleRef] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one stream has brought its daemon."""

    journaled: Journaled = NOTHING
    """What the daemon came with; counts until the first update is sent."""
    sent: Target | None = None
    """What the daemon holds if it took every update."""
    kind: Kind | None = None
    """Of the update that `sent` came by."""
    refused: tuple[str, int] | None = None
    """uid and generation of a snapshot that the daemon could not use: not sent again."""


def needs_quorum(journaled: Journaled, cached: Target | None) -> bool:
    """Tell whether a session's first answer must not come from the cache.

    The cache may be behind what the daemon or another replica knows; an old desired state could
    bring back a module that was removed.
    """
    return cached is None or journaled.uid != cached.uid or journaled.generation > cached.generation


def plan(target: Target, content_hash: bytes, progress: Progress) -> Push | None:
    """Return the next update of a stream; None if there is nothing to say."""
    if progress.refused == (target.uid, target.generation):
        return None
    if progress.sent is None:
        return _first(target, content_hash, progress.journaled)
    if progress.sent.uid != target.uid:
        return _snapshot(target)
    if target.generation <= progress.sent.generation:
        return None
    return _diff(target, progress.sent)


def after(target: Target, push: Push) -> Progress:
    """Return the progress once an update is sent."""
    return Progress(sent=target, kind=push.kind)


def after_resync(progress: Progress) -> Progress:
    """Return the progress once the daemon has said that it could not use an update."""
    if progress.sent is None:
        return Progress(refused=progress.refused)
    if progress.kind is Kind.SNAPSHOT:
        return Progress(refused=(progress.sent.uid, progress.sent.generation))
    return Progress()


def _first(target: Target, content_hash: bytes, journaled: Journaled) -> Push | None:
    if journaled.uid != target.uid:
        return _snapshot(target)
    if journaled.generation > target.generation:
        return None
    same = Journaled(uid=target.uid, generation=target.generation, content_hash=content_hash)
    return Push(kind=Kind.UNCHANGED) if journaled == same else _snapshot(target)


def _snapshot(target: Target) -> Push:
    return Push(kind=Kind.SNAPSHOT, upserts=target.modules)


def _diff(target: Target, base: Target) -> Push:
    before, now = base.by_ref(), target.by_ref()
    return Push(
        kind=Kind.DIFF,
        base_generation=base.generation,
        upserts=tuple(one for ref, one in now.items() if before.get(ref) != one),
        removals=tuple(ref for ref in before if ref not in now),
    )
