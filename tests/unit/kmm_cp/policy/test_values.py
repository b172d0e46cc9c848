"""Decoding what the API server gives."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kmm_common.api.names import PAUSED_ANNOTATION, SPEC_HASH_ANNOTATION
from kmm_common.api.nodemodulesstate import NodeStatus, spec_hash, spec_to_json, status_to_json
from kmm_common.desired import ModuleRef
from kmm_cp.policy.values import Node, NodeState, Taint
from support.policy import NOW, entry, loaded, node, state

NODE = {
    "metadata": {
        "name": "n",
        "uid": "u",
        "resourceVersion": "7",
        "labels": {"a": "b"},
        "annotations": {"volumes": "in use", PAUSED_ANNOTATION: "true"},
        "deletionTimestamp": "2026-01-01T00:00:00Z",
    },
    "spec": {
        "unschedulable": True,
        "taints": [
            {"key": "k", "value": "v", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
            {"key": "l", "effect": "NoSchedule"},
        ],
    },
    "status": {
        "nodeInfo": {"kernelVersion": "6.1+", "bootID": "boot", "architecture": "arm64"},
        "conditions": [
            {"type": "DiskPressure", "status": "True"},
            {"type": "Ready", "status": "True"},
        ],
    },
}


def test_a_node_is_decoded():
    assert Node.from_object(NODE) == Node(
        name="n",
        uid="u",
        resource_version="7",
        labels={"a": "b"},
        kernel_version="6.1+",
        boot_id="boot",
        architecture="arm64",
        taints=(
            Taint(
                key="k", value="v", effect="NoExecute", time_added=datetime(2026, 1, 1, tzinfo=UTC)
            ),
            Taint(key="l", effect="NoSchedule"),
        ),
        unschedulable=True,
        ready=True,
        deleting=True,
        paused="true",
    )


def test_a_node_that_was_just_made_is_decoded():
    assert Node.from_object({"metadata": {"name": "n"}}) == Node(name="n")


@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_a_node_is_not_ready_unless_the_condition_is_true(status):
    conditions = [{"type": "Ready", "status": status}, {"type": "Other", "status": "True"}]
    given = {"metadata": {"name": "n"}, "status": {"conditions": conditions}}
    assert not Node.from_object(given).ready


TAINT = Taint(key="k", effect="NoExecute")
EARLIER = NOW - timedelta(minutes=1)


@pytest.mark.parametrize(
    ("taint", "before", "expected"),
    [
        (TAINT, None, NOW),
        (TAINT, (), NOW),
        (TAINT, (replace(TAINT, time_added=EARLIER),), EARLIER),
        (TAINT, (replace(TAINT, value="x", time_added=EARLIER),), NOW),
        (replace(TAINT, time_added=EARLIER), (replace(TAINT, time_added=NOW),), EARLIER),
    ],
)
def test_a_taint_is_timed_from_when_it_was_first_seen(taint, before, expected):
    earlier = None if before is None else node(taints=before)
    timed = node(taints=(taint,)).with_taints_timed(earlier, NOW)
    assert [each.time_added for each in timed.taints] == [expected]


def test_a_node_modules_state_is_decoded():
    kmod = entry()
    expected = state(kmod, reports=(loaded(kmod, since_ms=1_000),))
    owners = [{"kind": "Other", "uid": "x"}, {"kind": "Node", "uid": "uid-node-1"}]
    metadata = {
        "name": "node-1",
        "uid": expected.uid,
        "generation": 3,
        "resourceVersion": "9",
        "ownerReferences": owners,
        "annotations": {SPEC_HASH_ANNOTATION: spec_hash((kmod,))},
    }
    given = {
        "metadata": metadata,
        "spec": spec_to_json(expected.modules),
        "status": status_to_json(expected.status),
    }
    decoded = NodeState.from_object(given)
    assert decoded == replace(expected, metadata=metadata)
    assert decoded.resource_version == "9"
    assert decoded.daemon.connected


def test_a_status_that_cannot_be_read_is_as_good_as_none():
    given = {"metadata": {"name": "node-1"}, "status": {"daemon": {"since": "yesterday"}}}
    assert NodeState.from_object(given).status == NodeStatus()


@pytest.mark.parametrize(
    ("annotations", "intact"),
    [
        ({SPEC_HASH_ANNOTATION: spec_hash((entry(),))}, True),
        ({SPEC_HASH_ANNOTATION: spec_hash(())}, False),
        ({}, False),
        (None, False),
    ],
    ids=["written", "edited", "removed", "none"],
)
def test_a_spec_is_intact_as_long_as_its_hash_is_right(annotations, intact):
    metadata = {"name": "node-1", "annotations": annotations}
    given = {"metadata": metadata, "spec": spec_to_json([entry()])}
    assert NodeState.from_object(given).intact is intact


def test_a_node_modules_state_that_was_just_made_says_nothing():
    new = NodeState.from_object({"metadata": {"name": "n", "generation": 1}, "spec": {}})
    assert (new.modules, new.status.modules, new.status.boot_id) == ((), (), "")
    assert (new.owner_uid, new.resource_version, new.settled) == ("", "", False)


@pytest.mark.parametrize(
    ("generation", "observed", "settled"),
    [(3, 3, True), (3, 4, True), (3, 2, False), (3, -1, False), (0, 0, False)],
)
def test_a_spec_is_settled_once_the_daemon_is_done_with_it(generation, observed, settled):
    assert state(generation=generation, observed=observed).settled is settled


def test_entries_and_reports_are_found_by_their_module():
    a, b = entry("a"), entry("b")
    both = state(a, b, reports=(loaded(b),))
    assert both.entry(b.ref) == b
    assert both.report_of(b.ref) == loaded(b)
    assert both.report_of(a.ref) is None
    assert both.entry(ModuleRef("default", "c")) is None
