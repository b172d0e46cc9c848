"""Whether an update of the desired state is taken: pure."""

from collections.abc import Iterable, Mapping

from kmm_common.desired import DesiredModule, ModuleRef, content_hash
from kmm_daemon.values import DesiredUpdate, NeedsSnapshot, NodeDesired, UpdateKind

LEFT_UIDS = 256
"""How many left uids are remembered: each is a NodeModulesState that was deleted in this boot."""


def accepted(
    update: DesiredUpdate, current: NodeDesired | None, left: Iterable[str]
) -> NodeDesired | NeedsSnapshot:
    """Return the desired state after an update, or why it cannot be used."""
    refusal = _outdated(update, current, left) or _baseless(update, current)
    if refusal:
        return NeedsSnapshot(reason=refusal)
    modules = _modules(update, current)
    partly_known = update.partly_known or (
        update.kind is not UpdateKind.SNAPSHOT and current is not None and current.partly_known
    )
    # Of what this release does not know no snapshot would bring more.
    if not partly_known and content_hash(modules.values()) != update.content_hash:
        return NeedsSnapshot(reason=f"content hash of generation {update.generation} differs")
    return NodeDesired(
        uid=update.uid, generation=update.generation, modules=modules, partly_known=partly_known
    )


def left_after(
    current: NodeDesired | None, new: NodeDesired, left: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the uids that are refused from now on."""
    if current is None or current.uid == new.uid:
        return left
    return (*left, current.uid)[-LEFT_UIDS:]


def _outdated(update: DesiredUpdate, current: NodeDesired | None, left: Iterable[str]) -> str:
    if update.uid in left:
        return f"uid {update.uid} was left before"
    if current and current.uid == update.uid and update.generation < current.generation:
        return f"generation {update.generation} is older than the journaled {current.generation}"
    return ""


def _baseless(update: DesiredUpdate, current: NodeDesired | None) -> str:
    """Say why an update that builds on a journaled state has nothing to build on."""
    if update.kind is UpdateKind.SNAPSHOT:
        return ""
    if current is None or current.uid != update.uid:
        return f"no journaled state of uid {update.uid}"
    if update.kind is UpdateKind.DIFF and update.base_generation != current.generation:
        return f"base generation {update.base_generation} is not {current.generation}"
    return ""


def _modules(
    update: DesiredUpdate, current: NodeDesired | None
) -> Mapping[ModuleRef, DesiredModule]:
    base = current.modules if current and update.kind is not UpdateKind.SNAPSHOT else {}
    removed = set(update.removals)
    kept = {ref: module for ref, module in base.items() if ref not in removed}
    return {**kept, **{module.ref: module for module in update.upserts}}
