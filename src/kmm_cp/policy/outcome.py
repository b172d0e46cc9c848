"""What became of a Module on one node."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from kmm_common.api.module import Module
from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModuleRef, ModuleState, ReportedModule
from kmm_common.errors import TerminalError
from kmm_cp.policy.eligibility import Held, NotEligible, eligibility
from kmm_cp.policy.entry import Entries
from kmm_cp.policy.pause import module_pause, node_pause
from kmm_cp.policy.truth import Truth, is_loaded, truth_of
from kmm_cp.policy.values import Node, NodeState

_NOT_TARGETED = frozenset(
    {
        Reason.DELETING,
        Reason.NO_MODULE_LOADER,
        Reason.NAME_TOO_LONG,
        Reason.NAME_RESERVED,
        Reason.SELECTOR_MISMATCH,
        Reason.CORDONED,
        Reason.UNTOLERATED_TAINT,
    }
)


class Kind(Enum):
    """How far a Module is on a node; the last four are not nodes that it should be on."""

    LOADED = "loaded as its spec says"
    FAILED = "failed for good"
    COMING = "on its way, or failed with retries left"
    AWAY = "not loaded, and the node is not ready"
    PAUSED = "not as its spec says, because the Module is paused"
    ON_PAUSED_NODE = "not as its spec says, because the node is paused"

    INVALID = "its spec does not work out for the node's kernel"
    HELD = "another version is ordered"
    UNMAPPED = "no mapping for the kernel"
    OUT = "not to be there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a Module on one node."""

    node: str
    kernel: str
    kind: Kind = Kind.COMING
    note: str = ""
    """The reason, for people."""
    reason: str = ""
    """HELD, INVALID, UNMAPPED, OUT: one of kmm_common.api.names.Reason.

    A node that the selector does not match has none.
    """
    targeted: bool = True
    """Selected, and not kept out by taints: upstream's nodesMatchingSelectorNumber."""
    planned: bool = False
    """The node's spec has the Module: upstream's desiredNumber."""
    available: bool = False
    """What the node's spec has is loaded: upstream's availableNumber."""
    wanted: DesiredModule | None = None
    """What the Module says for the node's kernel, without digest, where the node should have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A node as a status is made of it."""

    node: Node
    state: NodeState | None
    live: bool
    """A session of the node stands."""

    def planned(self, ref: ModuleRef) -> DesiredModule | None:
        """Return what the node's spec has of a Module."""
        return self.state.entry(ref) if self.state else None

    def report(self, ref: ModuleRef) -> ReportedModule | None:
        """Return what was said of a Module in the running boot."""
        if self.state is None:
            return None
        truth = truth_of(self.node, self.state, live=self.live)
        return self.state.report_of(ref) if truth is Truth.CURRENT else None

    def has_loaded(self, ref: ModuleRef) -> bool:
        """Tell whether what the node's spec has of a Module is loaded."""
        entry, report = self.planned(ref), self.report(ref)
        return bool(self.state and entry and is_loaded(entry, report, self.state))


def outcome_of(module: Module, entries: Entries, sight: Sight, now: datetime) -> Outcome:
    """Say what became of a Module on a node; `entries` are the Module's."""
    outcome = _unpaused(module, entries, sight, now)
    by = _pauser(module, sight.node)
    if by is None or not _held_back(outcome, sight.planned(module.ref)):
        return outcome
    return replace(outcome, kind=by, reason="", note="" if outcome.wanted else "to be unloaded")


def _pauser(module: Module, node: Node) -> Kind | None:
    if module_pause(module).on:
        return Kind.PAUSED
    return Kind.ON_PAUSED_NODE if node_pause(node).on else None


def _held_back(outcome: Outcome, planned: DesiredModule | None) -> bool:
    """Tell whether there would be another plan without a pause."""
    if outcome.kind in (Kind.OUT, Kind.UNMAPPED):
        return outcome.planned
    return outcome.kind is Kind.COMING and not (outcome.wanted and _says(planned, outcome.wanted))


def _unpaused(module: Module, entries: Entries, sight: Sight, now: datetime) -> Outcome:
    outcome = Outcome(
        node=sight.node.name,
        kernel=sight.node.kernel_version,
        planned=sight.planned(module.ref) is not None,
        available=sight.has_loaded(module.ref),
    )
    verdict = eligibility(module, sight.node, sight.state, now)
    if isinstance(verdict, NotEligible):
        kind = Kind.UNMAPPED if verdict.reason is Reason.NO_MATCHING_KERNEL else Kind.OUT
        outcome = replace(outcome, kind=kind, targeted=verdict.reason not in _NOT_TARGETED)
        if verdict.reason is Reason.SELECTOR_MISMATCH:
            return outcome
        return replace(outcome, reason=verdict.reason, note=verdict.message)
    if isinstance(verdict, Held):
        kind = Kind.HELD if verdict.reason is Reason.VERSION_HELD else Kind.INVALID
        return replace(outcome, kind=kind, reason=verdict.reason, note=verdict.message)
    wanted = entries.at(verdict.match, sight.node.kernel_version)
    return _wanted(outcome, wanted, sight)


def _wanted(outcome: Outcome, wanted: DesiredModule | TerminalError, sight: Sight) -> Outcome:
    if isinstance(wanted, TerminalError):
        return replace(outcome, kind=Kind.INVALID, reason=wanted.reason, note=str(wanted))
    outcome = replace(outcome, wanted=wanted)
    up_to_date = _says(sight.planned(wanted.ref), wanted)
    if up_to_date and outcome.available:
        return replace(outcome, kind=Kind.LOADED)
    if not sight.node.ready or sight.node.deleting:
        return replace(outcome, kind=Kind.AWAY)
    return _unfinished(outcome, wanted, sight) if up_to_date else outcome


def _unfinished(outcome: Outcome, wanted: DesiredModule, sight: Sight) -> Outcome:
    """A failure is for good only if it is this very spec's and the daemon tries no more."""
    report = sight.report(wanted.ref)
    if report is None or report.uid != wanted.uid or report.error is None:
        return outcome
    note = f"{report.error.reason}: {report.error.message}"
    failed = report.state is ModuleState.FAILED and not report.retrying
    final = failed and sight.state is not None and sight.state.accepted
    return replace(outcome, kind=Kind.FAILED if final else Kind.COMING, note=note)


def _says(planned: DesiredModule | None, wanted: DesiredModule) -> bool:
    """Tell whether a planned entry is what the Module says, whatever image and node add."""
    if planned is None:
        return False
    return replace(planned, image_digest="", config_hash="", conflicts_with="") == wanted
