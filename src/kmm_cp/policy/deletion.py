"""Whether a Module that is deleted may go: what its finalizer still waits for."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from kmm_common.api.module import Module
from kmm_common.api.names import MODULE_FINALIZER, PAUSED_ANNOTATION, Reason
from kmm_common.clock import from_rfc3339
from kmm_cp.policy.pause import module_pause, node_pause
from kmm_cp.policy.truth import Truth, truth_of
from kmm_cp.policy.values import Node, NodeState

_NOT_ACCEPTED = "its daemon has not said yet what it has without the Module"
_NAMED_FINALIZERS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A node that a Module's deletion waits for."""

    node: str
    reason: str
    """One of kmm_common.api.names.Reason."""
    message: str
    """Names the holder, where one keeps the module in the kernel."""


def waits_for(
    module: Module,
    nodes: Mapping[str, Node],
    states: Iterable[NodeState],
    *,
    live: Callable[[str], bool],
    now: datetime,
    disconnected_seconds: float,
) -> tuple[Wait, ...]:
    """Return what the finalizer waits for, by node; empty: it may go.

    Every spec must be without the Module. Its unload is waited for on connected nodes only: the
    others (gone, booted since, disconnected for longer than the limit) unload on their return.
    A report that omits the Module counts once it is about the spec without it: until then the
    daemon may be bringing the Module.
    """
    given_up = now - timedelta(seconds=disconnected_seconds)
    found = (
        _wait(module, nodes[state.name], state, live=live(state.name), given_up=given_up)
        for state in states
        if state.name in nodes
    )
    return tuple(sorted((wait for wait in found if wait), key=lambda wait: wait.node))


def held_by_others(module: Module) -> str:
    """Name the finalizers that are not ours to take off; empty if there are none."""
    others = [each for each in module.metadata.finalizers if each != MODULE_FINALIZER]
    if not others:
        return ""
    more = len(others) - _NAMED_FINALIZERS
    named = [*others[:_NAMED_FINALIZERS], *([f"and {more} more"] if more > 0 else [])]
    return f"held by finalizers of others: {', '.join(named)}"


def _wait(
    module: Module, node: Node, state: NodeState, *, live: bool, given_up: datetime
) -> Wait | None:
    ref = module.ref
    if state.entry(ref):
        return _still_planned(module, node)
    if not live and _out_of_reach(node, state, given_up):
        return None
    report = state.report_of(ref)
    if report is not None and report.error:
        return Wait(node=node.name, reason=report.error.reason, message=report.error.message)
    if report is None and state.accepted:
        return None
    message = f"the daemon says {report.state}" if report else _NOT_ACCEPTED
    return Wait(node=node.name, reason=Reason.WAITING_FOR_UNLOAD, message=message)


def _still_planned(module: Module, node: Node) -> Wait:
    """A pause is waited for: what it holds is unloaded when it ends."""
    holders = [
        *(["the Module"] if module_pause(module).on else []),
        *(["the Node"] if node_pause(node).on else []),
    ]
    if holders:
        message = f"remove annotation {PAUSED_ANNOTATION} from {' and '.join(holders)}"
        return Wait(node=node.name, reason=Reason.PAUSED, message=message)
    message = "its NodeModulesState still has the Module"
    return Wait(node=node.name, reason=Reason.WAITING_FOR_UNLOAD, message=message)


def _out_of_reach(node: Node, state: NodeState, given_up: datetime) -> bool:
    booted = truth_of(node, state, live=False) is Truth.PAST
    return booted or _disconnected_since(state, given_up)


def _disconnected_since(state: NodeState, given_up: datetime) -> bool:
    daemon = state.daemon
    if daemon.connected:
        return False
    return not daemon.since or from_rfc3339(daemon.since) <= given_up
