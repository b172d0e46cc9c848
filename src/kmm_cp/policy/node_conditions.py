"""What a node's status says in one word, for `kubectl wait` and for kstatus."""

from collections.abc import Sequence

from kmm_common.api import names
from kmm_common.api.names import Reason
from kmm_common.desired import ModuleState, ReportedModule
from kmm_cp.policy.conditions import Condition

_NAMED = 10
"""The modules list of the same status has all of them, with their messages."""


def node_conditions(modules: Sequence[ReportedModule], *, settled: bool) -> tuple[Condition, ...]:
    """Return Ready, Reconciling and Stalled; `settled`: every step is done, or failed for good.

    What failed and is tried again is being reconciled, not stalled.
    """
    loaded = sum(module.state is ModuleState.LOADED for module in modules)
    for_good = [each for each in modules if each.state is ModuleState.FAILED and not each.retrying]
    statuses = {
        names.Condition.READY: settled and loaded == len(modules),
        names.Condition.RECONCILING: not settled,
        names.Condition.STALLED: bool(for_good),
    }
    reason = _reason(modules, for_good, settled=settled)
    message = _message(modules, loaded)
    return tuple(
        Condition(type=type_, status=status, reason=reason, message=message)
        for type_, status in statuses.items()
    )


def _reason(
    modules: Sequence[ReportedModule], for_good: Sequence[ReportedModule], *, settled: bool
) -> str:
    for module in (*for_good, *modules):
        if module.error is not None:
            return module.error.reason
    return Reason.READY if settled else Reason.PROGRESSING


def _message(modules: Sequence[ReportedModule], loaded: int) -> str:
    troubled = [f"{each.ref}: {each.error.reason}" for each in modules if each.error is not None]
    more = len(troubled) - _NAMED
    return "; ".join(
        [
            f"{loaded} of {len(modules)} Modules loaded",
            *troubled[:_NAMED],
            *([f"and {more} more"] if more > 0 else []),
        ]
    )
