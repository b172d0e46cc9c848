"""What became of a Module on one node."""

from dataclasses import replace
from typing import Any

import pytest

from kmm_common.api.names import PAUSED_ANNOTATION
from kmm_common.desired import ModuleFailure, ModuleState
from kmm_cp.policy.entry import Entries
from kmm_cp.policy.outcome import Kind, Sight, outcome_of
from kmm_cp.policy.values import Taint
from support.policy import (
    BOOT,
    DIGEST,
    KERNEL,
    NOW,
    OTHER_DIGEST,
    entry,
    failed,
    loaded,
    module,
    node,
    state,
)

WANTED = entry()
VERSION = "kmm.node.kubernetes.io/version-module.default.simple"


def outcome(nms=None, *, kmod=None, on=None, live=True):
    kmod = kmod or module()
    return outcome_of(kmod, Entries(kmod), Sight(node=on or node(), state=nms, live=live), NOW)


RETRYING = replace(failed(WANTED), retrying=True)
NOTE = "ImageNotFound: no such tag"
PULLING = loaded(WANTED, state=ModuleState.PULLING, in_kernel=False)
MISMATCH = replace(
    PULLING,
    state=ModuleState.PENDING,
    error=ModuleFailure(reason="KernelMismatch", message="planned for another kernel"),
)


@pytest.mark.parametrize(
    ("nms", "kind", "note"),
    [
        (None, Kind.COMING, ""),
        (state(), Kind.COMING, ""),
        (state(WANTED), Kind.COMING, ""),
        (state(WANTED, reports=(loaded(WANTED),)), Kind.LOADED, ""),
        (state(WANTED, reports=(PULLING,)), Kind.COMING, ""),
        (state(WANTED, reports=(failed(WANTED),)), Kind.FAILED, "ImageNotFound: no such tag"),
        (state(WANTED, reports=(RETRYING,), observed=2), Kind.COMING, NOTE),
        # Another Module of the node is unfinished: that says nothing about this one.
        (state(WANTED, reports=(failed(WANTED),), observed=2), Kind.FAILED, NOTE),
        # A failure of an older spec, which the daemon may not repeat with this one.
        (state(WANTED, reports=(failed(WANTED),), observed=2, accepted=2), Kind.COMING, NOTE),
        # An older daemon says no more than that it is done.
        (state(WANTED, reports=(failed(WANTED),), accepted=-1), Kind.FAILED, NOTE),
        (
            state(WANTED, reports=(MISMATCH,)),
            Kind.COMING,
            "KernelMismatch: planned for another kernel",
        ),
        (state(WANTED, reports=(replace(failed(WANTED), uid="older"),)), Kind.COMING, ""),
        (state(WANTED, reports=(failed(WANTED),), boot_id=""), Kind.COMING, ""),
    ],
)
def test_what_the_daemon_says_of_the_running_boot_counts(nms, kind, note):
    found = outcome(nms)
    assert (found.kind, found.note) == (kind, note)


@pytest.mark.parametrize(("live", "kind"), [(True, Kind.LOADED), (False, Kind.COMING)])
def test_what_was_loaded_before_the_reboot_does_not_count(live, kind):
    nms = state(WANTED, reports=(loaded(WANTED),), boot_id="old")
    assert outcome(nms, live=live).kind is kind


@pytest.mark.parametrize(
    "planned",
    [
        entry(in_tree_modules_to_remove=("old",)),
        replace(WANTED, uid="older"),
        replace(WANTED, image="registry.example/kmod:0"),
        replace(WANTED, kernel_version="5.4.0"),
        replace(WANTED, pull_secret="other"),
    ],
)
def test_a_plan_of_before_the_change_does_not_count(planned):
    """Or a Module would be Ready between its change and its new plan."""
    assert outcome(state(planned, reports=(loaded(planned),))).kind is Kind.COMING
    assert outcome(state(planned, reports=(failed(planned),))).kind is Kind.COMING


@pytest.mark.parametrize(
    "planned", [entry(digest=OTHER_DIGEST), entry(digest=""), replace(WANTED, conflicts_with="")]
)
def test_what_image_and_node_add_to_the_plan_does_not_matter(planned):
    nms = state(planned, reports=(loaded(planned, digest=DIGEST),))
    assert outcome(nms).kind is Kind.LOADED


def test_the_module_that_stands_back_has_failed():
    loser = replace(WANTED, conflicts_with="default/other")
    report = failed(loser, reason="Conflict", message="belongs to default/other")
    found = outcome(state(loser, reports=(report,)))
    assert (found.kind, found.note) == (Kind.FAILED, "Conflict: belongs to default/other")


@pytest.mark.parametrize("on", [node(ready=False), node(deleting=True)])
@pytest.mark.parametrize("nms", [None, state(WANTED), state(WANTED, reports=(failed(WANTED),))])
def test_a_node_that_is_not_ready_is_away_unless_loaded(on, nms):
    assert outcome(nms, on=on).kind is Kind.AWAY
    assert outcome(state(WANTED, reports=(loaded(WANTED),)), on=on).kind is Kind.LOADED


@pytest.mark.parametrize(
    ("kmod", "on", "kind", "targeted"),
    [
        (module(), node(), Kind.COMING, True),
        (module(spec={"selector": {"a": "b"}}), node(), Kind.OUT, False),
        (module(), node(unschedulable=True), Kind.OUT, False),
        (module(), node(taints=(Taint(key="k", effect="NoExecute"),)), Kind.OUT, False),
        (module(container={"version": "2"}), node(), Kind.OUT, True),
        (module(container={"version": "2"}), node(labels={VERSION: "1"}), Kind.HELD, True),
        (module(mappings=[{"literal": "5.4.0"}]), node(), Kind.UNMAPPED, True),
        (module(mappings=[{"regexp": "("}]), node(), Kind.INVALID, True),
        (module(mappings=[{"regexp": ".", "containerImage": "${"}]), node(), Kind.INVALID, True),
        (module(spec={"moduleLoader": None}), node(), Kind.OUT, False),
    ],
)
def test_a_node_that_should_not_have_it_says_why(kmod, on, kind, targeted):
    found = outcome(kmod=kmod, on=on)
    assert (found.kind, found.targeted) == (kind, targeted)
    assert (found.wanted is not None) is (kind is Kind.COMING)


@pytest.mark.parametrize(
    ("kmod", "on", "reason", "told"),
    [
        (module(spec={"selector": {"a": "b"}}), node(), "", ""),
        (module(), node(unschedulable=True), "Cordoned", "cordoned"),
        (module(), node(taints=(Taint(key="k", effect="NoExecute"),)), "UntoleratedTaint", "k:No"),
        (module(container={"version": "2"}), node(), "VersionNotOrdered", VERSION),
    ],
)
def test_a_node_that_keeps_out_a_module_that_selects_it_says_why(kmod, on, reason, told):
    found = outcome(kmod=kmod, on=on)
    assert found.reason == reason
    assert told in found.note and bool(found.note) is bool(told)


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({"regexp": "("}, "InvalidMapping"),
        ({"regexp": ".", "containerImage": "${"}, "InvalidTemplate"),
    ],
)
def test_a_spec_that_does_not_work_out_says_which_field(mapping, reason):
    found = outcome(kmod=module(mappings=[mapping]))
    assert found.reason == reason
    assert "kernelMappings[0]" in found.note


def test_counters_follow_the_plan_of_the_node():
    older = entry(in_tree_modules_to_remove=("old",))
    nms = state(older, reports=(loaded(older),))
    for found in (outcome(nms), outcome(nms, on=node(unschedulable=True, ready=False))):
        assert (found.planned, found.available) == (True, True)
    found = outcome(state(older))
    assert (found.planned, found.available) == (True, False)
    found = outcome(state(reports=(loaded(older),)))
    assert (found.planned, found.available) == (False, False)


def test_an_outcome_names_node_and_kernel():
    found = outcome(on=node("n", boot_id=BOOT))
    assert (found.node, found.kernel) == ("n", KERNEL)


LOADED = state(WANTED, reports=(loaded(WANTED),))
CHANGED = {"modprobe": {"parameters": ["speed=2"]}}
ELSEWHERE = {"spec": {"selector": {"a": "b"}}}
UNMAPPED = {"mappings": [{"literal": "5.4.0"}]}


@pytest.mark.parametrize(
    ("wish", "nms", "ready", "held", "kind"),
    [
        ({}, LOADED, True, False, Kind.LOADED),
        ({}, state(WANTED), True, False, Kind.COMING),
        ({}, state(WANTED, reports=(failed(WANTED),)), True, False, Kind.FAILED),
        ({}, state(), True, True, Kind.COMING),
        ({}, None, True, True, Kind.COMING),
        (CHANGED, LOADED, True, True, Kind.COMING),
        (CHANGED, LOADED, False, False, Kind.AWAY),
        (ELSEWHERE, LOADED, True, True, Kind.OUT),
        (ELSEWHERE, state(), True, False, Kind.OUT),
        (UNMAPPED, LOADED, True, True, Kind.UNMAPPED),
        (UNMAPPED, state(), True, False, Kind.UNMAPPED),
    ],
)
def test_a_pause_is_told_where_it_holds_something_back(wish, nms, ready, held, kind):
    annotated: dict[str, Any] = {"metadata": {"annotations": {PAUSED_ANNOTATION: "true"}}}
    on = node(ready=ready)
    assert outcome(nms, kmod=module(**wish), on=on).kind is kind
    paused = outcome(nms, kmod=module(**wish, **annotated), on=on)
    assert paused.kind is (Kind.PAUSED if held else kind)
    on_paused = outcome(nms, kmod=module(**wish), on=replace(on, paused="true"))
    assert on_paused.kind is (Kind.ON_PAUSED_NODE if held else kind)
    goes = held and wish in (ELSEWHERE, UNMAPPED)
    assert ("to be unloaded" in (paused.note, on_paused.note)) is goes
