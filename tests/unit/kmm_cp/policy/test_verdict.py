"""Ready, on its way or stuck."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_cp.policy.outcome import Kind, Outcome
from kmm_cp.policy.tolerance import Tolerance
from kmm_cp.policy.verdict import conditions_of, verdict_on
from support.policy import module

NONE = Tolerance()
READY, COMING, STUCK = (True, False), (False, False), (False, True)


def outcomes(*kinds, note=""):
    return [
        Outcome(node=f"node-{number}", kernel=f"6.1.{number}", kind=kind, note=note)
        for number, kind in enumerate(kinds, 1)
    ]


def judged(*kinds, tolerated=NONE, note="", kmod=None):
    return verdict_on(kmod or module(), outcomes(*kinds, note=note), tolerated)


L, F, C, A = Kind.LOADED, Kind.FAILED, Kind.COMING, Kind.AWAY
P, N = Kind.PAUSED, Kind.ON_PAUSED_NODE
ONE, HALF = Tolerance(number=1), Tolerance(number=50, percent=True)


@pytest.mark.parametrize(
    ("kinds", "tolerated", "expected", "reason"),
    [
        ([L], NONE, READY, "Ready"),
        ([L, L, L], NONE, READY, "Ready"),
        ([C], NONE, COMING, "Progressing"),
        ([L, C], NONE, COMING, "Progressing"),
        ([L, A], NONE, READY, "NodesNotReady"),
        ([A], NONE, READY, "NodesNotReady"),
        ([A, C], NONE, COMING, "Progressing"),
        ([L, P], NONE, COMING, "Paused"),
        ([P, C], NONE, COMING, "Progressing"),
        ([P, F], NONE, STUCK, "NodesFailed"),
        ([P, F], ONE, COMING, "Paused"),
        ([L, N], NONE, READY, "NodesPaused"),
        ([N], NONE, READY, "NodesPaused"),
        ([N, A], NONE, READY, "NodesPaused"),
        ([N, C], NONE, COMING, "Progressing"),
        ([F], NONE, STUCK, "NodesFailed"),
        ([L, F], NONE, STUCK, "NodesFailed"),
        ([F, C], NONE, STUCK, "NodesFailed"),
        ([L, F], ONE, READY, "ToleratedFailures"),
        ([L, F, A], ONE, READY, "ToleratedFailures"),
        ([F, F], ONE, STUCK, "NodesFailed"),
        ([L, F, C], ONE, COMING, "Progressing"),
        ([L, F], HALF, READY, "ToleratedFailures"),
        ([L, F, F], HALF, STUCK, "NodesFailed"),
        ([], NONE, READY, "NoMatchingNodes"),
        ([Kind.OUT], NONE, READY, "NoMatchingNodes"),
        ([Kind.HELD], NONE, READY, "NoMatchingNodes"),
        ([Kind.UNMAPPED], NONE, READY, "NoMatchingKernel"),
        ([L, Kind.UNMAPPED, Kind.HELD, Kind.OUT], NONE, READY, "Ready"),
        ([L, Kind.INVALID], ONE, STUCK, "InvalidTemplate"),
    ],
)
def test_a_module_is_judged_by_what_became_of_it(kinds, tolerated, expected, reason):
    found = outcomes(*kinds)
    if Kind.INVALID in kinds:
        found = [Outcome(node="n", kernel="k", kind=Kind.INVALID, reason=reason, note="why")]
    verdict = verdict_on(module(), found, tolerated)
    assert ((verdict.ready, verdict.stalled), verdict.reason) == (expected, reason)
    assert verdict.reconciling is (expected == COMING)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ([L, L], "loaded on 2 of 2 nodes"),
        ([L, F], "loaded on 1 of 2 nodes; 1 failed: node-2 (why)"),
        ([L, C], "loaded on 1 of 2 nodes; waiting for: node-2 (why)"),
        ([L, A], "loaded on 1 of 2 nodes; not ready: node-2 (why)"),
        (
            [L, Kind.HELD],
            "loaded on 1 of 1 nodes; another version is ordered on: node-2 (why)",
        ),
        ([L, Kind.UNMAPPED], "loaded on 1 of 1 nodes; no kernel mapping for: node-2 (6.1.2)"),
        ([Kind.UNMAPPED], "no node should have it; no kernel mapping for: node-1 (6.1.1)"),
        ([Kind.OUT], "no node should have it"),
        ([L, Kind.OUT], "loaded on 1 of 1 nodes"),
        (
            [F] * 5,
            "loaded on 0 of 5 nodes; 5 failed: node-1 (why), node-2 (why), node-3 (why) and 2 more",
        ),
    ],
)
def test_the_message_names_nodes_and_reasons(kinds, message):
    assert judged(*kinds, note="why").message == message


def kept_out(*names):
    return [
        Outcome(node=name, kernel="k", kind=Kind.OUT, reason="Cordoned", note="it is cordoned")
        for name in names
    ]


def test_nodes_that_the_selector_matches_and_that_keep_the_module_out_are_named():
    verdict = verdict_on(module(), kept_out("b", "d", "a", "c"), NONE)
    assert verdict.message == (
        "no node should have it; kept out of: a (it is cordoned), b (it is cordoned), "
        "c (it is cordoned) and 1 more"
    )
    some = [*outcomes(L, Kind.OUT, note="not selected"), *kept_out("a")]
    message = verdict_on(module(), some, NONE).message
    assert message == "loaded on 1 of 1 nodes; kept out of: a (it is cordoned)"


def test_a_node_without_a_note_is_only_named():
    assert judged(C).message == "loaded on 0 of 1 nodes; waiting for: node-1"


def test_the_message_is_bounded():
    assert len(judged(*[C] * 500, note="x" * 5000).message) < 1500


def test_a_tolerance_that_was_not_taken_is_said():
    verdict = judged(L, tolerated=Tolerance(problem="annotation x is 'y'"))
    assert verdict.message == "loaded on 1 of 1 nodes; annotation x is 'y'"


def test_the_first_kernel_that_does_not_work_out_is_named():
    found = [
        Outcome(node=name, kernel=kernel, kind=Kind.INVALID, reason="InvalidMapping", note=kernel)
        for name, kernel in (("a", "6.2"), ("c", "6.1"), ("b", "6.3"))
    ]
    assert verdict_on(module(), found, NONE).message == "6.1"


def test_a_module_that_is_deleted_is_neither_ready_nor_stalled():
    kmod = module(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    found = [Outcome(node="a", kernel="k", kind=Kind.OUT, planned=True)]
    verdict = verdict_on(kmod, found, NONE)
    assert (verdict.reconciling, verdict.reason) == (True, "Deleting")
    assert verdict.message == "being deleted; 1 nodes are still planned to have it"


@pytest.mark.parametrize(
    ("kmod", "expected", "reason"),
    [
        (module(spec={"moduleLoader": None}), READY, "NoModuleLoader"),
        (module("n" * 60), STUCK, "NameTooLong"),
    ],
)
def test_a_module_that_no_node_can_have_says_why(kmod, expected, reason):
    verdict = judged(Kind.OUT, kmod=kmod)
    assert ((verdict.ready, verdict.stalled), verdict.reason) == (expected, reason)


@given(st.lists(st.sampled_from(Kind)), st.integers(0, 5))
def test_exactly_one_of_the_three_conditions_is_true(kinds, number):
    verdict = judged(*kinds, tolerated=Tolerance(number=number))
    conditions = list(conditions_of(verdict))
    assert [each.type.value for each in conditions] == ["Ready", "Reconciling", "Stalled"]
    assert sum(each.status for each in conditions) == 1
    assert {(each.reason, each.message) for each in conditions} == {
        (verdict.reason, verdict.message)
    }
