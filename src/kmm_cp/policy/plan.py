"""The whole desired state of one node."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from kmm_common.api.module import Module
from kmm_common.desired import DesiredModule, ModuleRef
from kmm_common.errors import KmmError
from kmm_cp.policy.conflicts import holds, with_conflicts
from kmm_cp.policy.digests import Digests, Pending, pinned_digest
from kmm_cp.policy.eligibility import Eligible, Held, NotEligible, eligibility, on_node
from kmm_cp.policy.entry import entry_for, with_digest
from kmm_cp.policy.pause import module_pause, node_pause
from kmm_cp.policy.truth import Truth, truth_of
from kmm_cp.policy.values import Node, NodeState

_UNBORN = datetime.max.replace(tzinfo=UTC)
"""Creation of a Module that is in no cluster: `kmm plan` of a file."""
_OLDEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """What a node should have."""

    modules: tuple[DesiredModule, ...] | None
    """The whole spec.modules, ordered; None: too little is known, write nothing."""
    requeue_after: float | None = None
    """Seconds until the plan changes by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decision:
    module: Module
    entry: DesiredModule | None = None
    undecided: bool = False
    """The entry cannot be made now, and leaving it out would unload."""
    paused: bool = False
    """The entry is not to be changed at all."""
    until: datetime | None = None


def plan_node(
    node: Node,
    modules: Iterable[Module],
    state: NodeState | None,
    digests: Digests,
    now: datetime,
    unreadable: Collection[ModuleRef] = (),
) -> NodePlan:
    """Plan a node from all Modules there are; `node` has its taints timed.

    A Module of which nothing new can be said (registry asked, template invalid, other version
    ordered) keeps the entry that it has. Without a NodeModulesState there is none to keep: if
    such a Module may be on the node, nothing is planned, since a first spec without it unloads.
    The same goes for a NodeModulesState that somebody edited: nothing in its spec is kept. An
    `unreadable` Module, of which nothing at all can be said, keeps its entry too. So does one
    that is paused; on a node that is paused all that was written stays.
    """
    if not node.kernel_version:
        return NodePlan(modules=None)
    unwritten = state is None or not state.intact
    if node_pause(node).on:
        return NodePlan(modules=None if state is None or unwritten else state.modules)
    if state is not None and not state.intact:
        state = replace(state, modules=())
    readable = (module for module in modules if module.ref not in unreadable)
    ordered = sorted(readable, key=lambda module: module.ref)
    decisions = [_decision(module, node, state, digests, now) for module in ordered]
    undecided = unwritten and (
        any(decision.undecided for decision in decisions)
        or any(on_node(ref, node, state) for ref in unreadable)
    )
    ends = [decision.until for decision in decisions if decision.until]
    return NodePlan(
        modules=None if undecided else _entries(decisions, node, state, unreadable),
        requeue_after=(min(ends) - now).total_seconds() if ends else None,
    )


def _entries(
    decisions: Sequence[_Decision],
    node: Node,
    state: NodeState | None,
    unreadable: Collection[ModuleRef],
) -> tuple[DesiredModule, ...]:
    had = state.modules if state else ()
    blind = [entry for entry in had if entry.ref in unreadable]
    created = {
        **{d.module.ref: d.module.metadata.creation_timestamp or _UNBORN for d in decisions},
        # Nobody knows how old it is: it wins or stands back as it did.
        **{entry.ref: _UNBORN if entry.conflicts_with else _OLDEST for entry in blind},
    }
    held = [d.entry for d in decisions if d.entry and d.paused]
    wanted = (*(d.entry for d in decisions if d.entry and not d.paused), *blind)
    return with_conflicts(wanted, created, _holders(wanted, node, state), held)


def _holders(
    entries: Iterable[DesiredModule], node: Node, state: NodeState | None
) -> frozenset[ModuleRef]:
    """Return whose kernel module is in the kernel of the running boot, and is theirs."""
    if state is None or truth_of(node, state, live=state.daemon.connected) is not Truth.CURRENT:
        return frozenset()
    return frozenset(
        entry.ref
        for entry in entries
        if holds(entry, state.entry(entry.ref), state.report_of(entry.ref))
    )


def _decision(
    module: Module, node: Node, state: NodeState | None, digests: Digests, now: datetime
) -> _Decision:
    if module_pause(module).on:
        return replace(_kept(module, node, state, None), paused=True)
    verdict = eligibility(module, node, state, now)
    if isinstance(verdict, NotEligible):
        return _Decision(module=module)
    if isinstance(verdict, Held):
        return _kept(module, node, state, verdict.until)
    try:
        return _wanted(module, node, state, digests, verdict)
    except KmmError:
        # What is wrong with one Module stops no other on the node; its status says what it is.
        return _kept(module, node, state, verdict.until)


def _wanted(
    module: Module, node: Node, state: NodeState | None, digests: Digests, verdict: Eligible
) -> _Decision:
    entry = entry_for(module, verdict.match, node.kernel_version)
    digest = pinned_digest(entry, state, digests)
    if isinstance(digest, Pending):
        return replace(_kept(module, node, state, verdict.until), undecided=True)
    return _Decision(module=module, entry=with_digest(entry, digest), until=verdict.until)


def _kept(module: Module, node: Node, state: NodeState | None, until: datetime | None) -> _Decision:
    """Leave the Module on the node as it is."""
    return _Decision(
        module=module,
        entry=state.entry(module.ref) if state else None,
        undecided=on_node(module.ref, node, state),
        until=until,
    )
