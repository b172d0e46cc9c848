"""Whether a Module is Ready, on its way or stuck, from what became of it on the nodes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kmm_common.api import names
from kmm_common.api.module import Module
from kmm_common.api.names import Reason
from kmm_cp.policy.conditions import Condition
from kmm_cp.policy.deletion import held_by_others
from kmm_cp.policy.eligibility import unfit
from kmm_cp.policy.outcome import Kind, Outcome
from kmm_cp.policy.tolerance import Tolerance

_NAMED = 3
"""Nodes that a message names of each kind."""
_NOTE = 400
"""Characters of a node's own message in a Module's."""
_TARGETS = (
    Kind.LOADED,
    Kind.FAILED,
    Kind.COMING,
    Kind.AWAY,
    Kind.PAUSED,
    Kind.ON_PAUSED_NODE,
)

_ByKind = Mapping[Kind, Sequence[Outcome]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Ready, or why not: the conditions Ready, Reconciling and Stalled in one."""

    ready: bool = False
    stalled: bool = False
    """Only new input can help."""
    reason: str
    """One of kmm_common.api.names.Reason."""
    message: str

    @property
    def reconciling(self) -> bool:
        return not (self.ready or self.stalled)


def verdict_on(module: Module, outcomes: Sequence[Outcome], tolerated: Tolerance) -> Verdict:
    """Judge a Module: the first rule that has an answer."""
    by_kind = {kind: [each for each in outcomes if each.kind is kind] for kind in Kind}
    return (
        _deleting(module, outcomes)
        or _unusable(module)
        or _invalid(by_kind[Kind.INVALID])
        or _nowhere(by_kind)
        or _on_nodes(by_kind, tolerated)
    )


def conditions_of(verdict: Verdict) -> Iterable[Condition]:
    """Return the three conditions that kstatus and people read."""
    for kind, status in (
        (names.Condition.READY, verdict.ready),
        (names.Condition.RECONCILING, verdict.reconciling),
        (names.Condition.STALLED, verdict.stalled),
    ):
        yield Condition(type=kind, status=status, reason=verdict.reason, message=verdict.message)


def _deleting(module: Module, outcomes: Sequence[Outcome]) -> Verdict | None:
    if not module.deleting:
        return None
    left = sum(outcome.planned for outcome in outcomes)
    message = f"being deleted; {left} nodes are still planned to have it"
    held = held_by_others(module)
    # While ours is there, too, DeletionWaits says both.
    if held and names.MODULE_FINALIZER not in module.metadata.finalizers:
        message += f"; only {held}"
    return Verdict(reason=Reason.DELETING, message=message)


def _unusable(module: Module) -> Verdict | None:
    problem = unfit(module)
    if problem is None:
        return None
    nothing = problem.reason is Reason.NO_MODULE_LOADER
    return Verdict(
        ready=nothing, stalled=not nothing, reason=problem.reason, message=problem.message
    )


def _invalid(invalid: Sequence[Outcome]) -> Verdict | None:
    if not invalid:
        return None
    first = min(invalid, key=lambda outcome: (outcome.kernel, outcome.node))
    return Verdict(stalled=True, reason=first.reason, message=first.note)


def _nowhere(by_kind: _ByKind) -> Verdict | None:
    if any(by_kind[kind] for kind in _TARGETS):
        return None
    reason = Reason.NO_MATCHING_KERNEL if by_kind[Kind.UNMAPPED] else Reason.NO_MATCHING_NODES
    return Verdict(ready=True, reason=reason, message=_told("no node should have it", by_kind))


def _on_nodes(by_kind: _ByKind, tolerated: Tolerance) -> Verdict:
    count = sum(len(by_kind[kind]) for kind in _TARGETS)
    message = _told(f"loaded on {len(by_kind[Kind.LOADED])} of {count} nodes", by_kind)
    message += f"; {tolerated.problem}" if tolerated.problem else ""
    if len(by_kind[Kind.FAILED]) > tolerated.of(count):
        return Verdict(stalled=True, reason=Reason.NODES_FAILED, message=message)
    if by_kind[Kind.COMING]:
        return Verdict(reason=Reason.PROGRESSING, message=message)
    if by_kind[Kind.PAUSED]:
        return Verdict(reason=Reason.PAUSED, message=message)
    if by_kind[Kind.FAILED]:
        return Verdict(ready=True, reason=Reason.TOLERATED_FAILURES, message=message)
    return Verdict(ready=True, reason=_ready_reason(by_kind), message=message)


def _ready_reason(by_kind: _ByKind) -> Reason:
    """Nodes that are away, or held by hand, are told of and not waited for."""
    if by_kind[Kind.ON_PAUSED_NODE]:
        return Reason.NODES_PAUSED
    return Reason.NODES_NOT_READY if by_kind[Kind.AWAY] else Reason.READY


def _told(head: str, by_kind: _ByKind) -> str:
    """Return a sentence that names some nodes of every kind but the loaded ones.

    Nodes that the selector does not match are none of the Module's business.
    """
    failed = len(by_kind[Kind.FAILED])
    parts = (
        (f"{failed} failed", by_kind[Kind.FAILED]),
        ("waiting for", by_kind[Kind.COMING]),
        ("not ready", by_kind[Kind.AWAY]),
        ("held back by the pause of the Module on", by_kind[Kind.PAUSED]),
        ("held back by the pause of nodes", by_kind[Kind.ON_PAUSED_NODE]),
        ("another version is ordered on", by_kind[Kind.HELD]),
        ("no kernel mapping for", by_kind[Kind.UNMAPPED]),
        ("kept out of", [each for each in by_kind[Kind.OUT] if each.reason]),
    )
    return "; ".join([head, *(f"{what}: {_some(found)}" for what, found in parts if found)])


def _some(outcomes: Sequence[Outcome]) -> str:
    ordered = sorted(outcomes, key=lambda outcome: outcome.node)
    named = ", ".join(map(_node, ordered[:_NAMED]))
    more = len(ordered) - _NAMED
    return f"{named} and {more} more" if more > 0 else named


def _node(outcome: Outcome) -> str:
    note = outcome.kernel if outcome.kind is Kind.UNMAPPED else outcome.note[:_NOTE]
    return f"{outcome.node} ({note})" if note else outcome.node
