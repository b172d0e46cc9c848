"""The fleet at a glance: modules by kernel by state, and why what failed failed. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kmm_cli.problems import Problem, Unmatched, is_paused, name_of, problems_of, unmatched
from kmm_common.api.nodemodulesstate import NodeStatus, readable_status, spec_from_json
from kmm_common.desired import DesiredModule, ModuleFailure, ModuleRef, ModuleState, ReportedModule

DISCONNECTED = "Disconnected"
"""Counted in the place of a state that nobody can vouch for: the node has no session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One Module that is not where it should be on one node."""

    module: str
    node: str
    reason: str
    message: str
    kernel_log: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """One Module that is in the kernel of one node, but not in every way as its user thinks."""

    module: str
    node: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One Module on all nodes of one kernel: how many nodes are in which state."""

    module: str
    kernel: str
    nodes: int
    states: Mapping[str, int]
    """One of ModuleState, or DISCONNECTED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Everything `kmm status` shows."""

    nodes: int
    connected: int
    disconnected: tuple[str, ...]
    """The nodes whose daemon has no session."""
    paused: tuple[str, ...]
    """The nodes that are held by hand."""
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    warnings: tuple[Warned, ...]
    problems: tuple[Problem, ...]
    """What Modules say of themselves."""
    unmatched: tuple[Unmatched, ...]


def fleet(modules: Iterable[Mapping[str, Any]], states: Iterable[Mapping[str, Any]]) -> Fleet:
    """Summarise Modules and NodeModulesStates as the API server lists them."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    failures: list[Failure] = []
    warnings: list[Warned] = []
    connected: dict[str, bool] = {}
    paused: list[str] = []
    for state in states:
        node, status = state["metadata"]["name"], state.get("status") or {}
        connected[node] = bool((status.get("daemon") or {}).get("connected"))
        if is_paused(state):
            paused.append(node)
        reported = {
            module.ref: module for module in (readable_status(status) or NodeStatus()).modules
        }
        for entry in _entries(state, reported):
            shown = entry.state if connected[node] else DISCONNECTED
            counts.setdefault((str(entry.ref), entry.kernel), Counter())[shown] += 1
            if entry.reported is not None and (error := entry.reported.error) is not None:
                failures.append(_failure(entry, node, error))
            if entry.reported is not None and (message := entry.reported.warning):
                warnings.append(Warned(module=str(entry.ref), node=node, message=message))
    known = {module for module, _ in counts}
    ordered = sorted(modules, key=name_of)
    return Fleet(
        nodes=len(connected),
        connected=sum(connected.values()),
        disconnected=tuple(sorted(node for node, stands in connected.items() if not stands)),
        paused=tuple(sorted(paused)),
        rows=tuple(_row(key, counts[key]) for key in sorted(counts)),
        failures=tuple(sorted(failures, key=lambda failure: (failure.module, failure.node))),
        warnings=tuple(sorted(warnings, key=lambda warned: (warned.module, warned.node))),
        problems=tuple(problem for module in ordered for problem in problems_of(module)),
        unmatched=tuple(unmatched(module) for module in ordered if name_of(module) not in known),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    ref: ModuleRef
    kernel: str
    state: str
    reported: ReportedModule | None


def _entries(
    state: Mapping[str, Any], reported: Mapping[ModuleRef, ReportedModule]
) -> Iterable[_Entry]:
    """Yield what is desired, then what is reported but no longer desired."""
    desired = spec_from_json(state.get("spec"))
    for module in desired:
        yield _Entry(
            ref=module.ref,
            kernel=module.kernel_version,
            state=_state(module, reported.get(module.ref)),
            reported=reported.get(module.ref),
        )
    wanted = {module.ref for module in desired}
    kernel = (state.get("status") or {}).get("kernelVersion", "")
    for ref, leaving in sorted(reported.items()):
        if ref not in wanted:
            yield _Entry(ref=ref, kernel=kernel, state=leaving.state.value, reported=leaving)


def _state(desired: DesiredModule, reported: ReportedModule | None) -> str:
    """Return the state; a Loaded of another configuration than the desired one is Pending."""
    if reported is None or reported.uid != desired.uid:
        return ModuleState.PENDING.value
    outdated = desired.image_digest and reported.config_hash != desired.config_hash
    if reported.state is ModuleState.LOADED and outdated:
        return ModuleState.PENDING.value
    return reported.state.value


def _failure(entry: _Entry, node: str, error: ModuleFailure) -> Failure:
    return Failure(
        module=str(entry.ref),
        node=node,
        reason=error.reason,
        message=error.message,
        kernel_log=error.kernel_log,
    )


def _row(key: tuple[str, str], states: Counter[str]) -> Row:
    module, kernel = key
    return Row(module=module, kernel=kernel, nodes=states.total(), states=dict(states))
