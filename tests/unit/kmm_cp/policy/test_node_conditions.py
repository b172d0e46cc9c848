from dataclasses import replace

import pytest

from kmm_common.desired import ModuleFailure, ModuleState, ReportedModule
from kmm_cp.policy.node_conditions import node_conditions
from support.desired import reported

LOADED = reported("a")


def troubled(name, state, reason="InUse", *, retrying=False):
    failure = ModuleFailure(reason=reason, message="why")
    return replace(reported(name, state), error=failure, retrying=retrying)


FOR_GOOD = troubled("b", ModuleState.FAILED)
RETRIED = troubled("c", ModuleState.FAILED, "TimedOut", retrying=True)
CONFLICT = troubled("d", ModuleState.PENDING, "Conflict")
LOADING = reported("e", ModuleState.LOADING)


@pytest.mark.parametrize(
    ("modules", "settled", "true", "reason"),
    [
        ((), True, {"Ready"}, "Ready"),
        ((), False, {"Reconciling"}, "Progressing"),
        ((LOADED,), True, {"Ready"}, "Ready"),
        ((LOADED,), False, {"Reconciling"}, "Progressing"),
        ((LOADED, LOADING), False, {"Reconciling"}, "Progressing"),
        ((LOADED, FOR_GOOD), True, {"Stalled"}, "InUse"),
        ((LOADED, RETRIED), False, {"Reconciling"}, "TimedOut"),
        ((CONFLICT, RETRIED, FOR_GOOD), False, {"Reconciling", "Stalled"}, "InUse"),
        ((LOADED, CONFLICT), True, set(), "Conflict"),
    ],
)
def test_conditions_sum_up_the_modules(
    modules: tuple[ReportedModule, ...], settled: bool, true: set[str], reason: str
) -> None:
    conditions = node_conditions(modules, settled=settled)
    assert [each.type for each in conditions] == ["Ready", "Reconciling", "Stalled"]
    assert {each.type for each in conditions if each.status} == true
    assert {each.reason for each in conditions} == {reason}


def test_message_counts_and_names_what_is_wrong_within_bounds() -> None:
    many = [troubled(f"m{number:02}", ModuleState.FAILED) for number in range(12)]
    (ready, *_) = node_conditions([LOADED, *many], settled=True)
    head, *named = ready.message.split("; ")
    assert head == "1 of 13 Modules loaded"
    assert named[0].endswith("/m00: InUse")
    assert named[9].endswith("/m09: InUse")
    assert named[10:] == ["and 2 more"]
