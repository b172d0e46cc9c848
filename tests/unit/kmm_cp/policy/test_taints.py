"""Taints, tolerations and cordons."""

from datetime import timedelta

import pytest

from kmm_common.api.meta import Toleration
from kmm_cp.policy.taints import ALWAYS_TOLERATED, CORDON, TaintVerdict, taint_verdict, tolerates
from kmm_cp.policy.values import Taint
from support.policy import NOW, node


def taint(effect="NoSchedule", **changes):
    return Taint(**{"key": "k", "value": "v", "effect": effect, **changes})


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        ({"key": "k", "operator": "Exists"}, True),
        ({"key": "other", "operator": "Exists"}, False),
        ({"operator": "Exists"}, True),
        ({"operator": "Exists", "effect": "NoSchedule"}, True),
        ({"operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "k", "operator": "Equal", "value": "v"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "value": "v", "effect": "NoSchedule"}, True),
        ({"key": "k", "value": "v", "effect": "PreferNoSchedule"}, False),
        ({"key": "k", "value": "w"}, False),
        ({"key": "k"}, False),
        ({"value": "v"}, False),
        ({}, False),
    ],
)
def test_a_toleration_matches_as_kubernetes_defines_it(toleration, expected):
    assert tolerates(Toleration.model_validate(toleration), taint()) is expected


def test_a_toleration_without_a_value_matches_a_taint_without_one():
    assert tolerates(Toleration(key="k"), taint(value=""))


def verdict(*taints, tolerations=(), **changes):
    made = [Toleration.model_validate(each) for each in tolerations]
    return taint_verdict(node(taints=taints, **changes), made, NOW)


def test_a_node_without_taints_changes_nothing():
    assert verdict() == TaintVerdict()


@pytest.mark.parametrize("effect", ["NoSchedule", "NoExecute"])
@pytest.mark.parametrize("key", sorted(ALWAYS_TOLERATED))
def test_what_every_daemon_tolerates_changes_nothing(key, effect):
    assert verdict(taint(effect, key=key, value="")) == TaintVerdict()


def test_a_preference_changes_nothing():
    assert verdict(taint("PreferNoSchedule")) == TaintVerdict()


def test_an_untolerated_no_schedule_keeps_out():
    assert verdict(taint()) == TaintVerdict(keeps_out=taint())


def test_a_tolerated_no_schedule_changes_nothing():
    assert verdict(taint(), tolerations=[{"operator": "Exists"}]) == TaintVerdict()


def test_a_cordon_keeps_out():
    assert verdict(unschedulable=True) == TaintVerdict(keeps_out=CORDON)


@pytest.mark.parametrize(
    "toleration", [{"operator": "Exists"}, {"key": CORDON.key, "operator": "Exists"}]
)
def test_a_cordon_can_be_tolerated(toleration):
    assert verdict(unschedulable=True, tolerations=[toleration]) == TaintVerdict()


def test_an_untolerated_no_execute_drives_off():
    assert verdict(taint("NoExecute")) == TaintVerdict(drives_off=taint("NoExecute"))


def test_a_no_execute_tolerated_for_ever_changes_nothing():
    assert verdict(taint("NoExecute"), tolerations=[{"operator": "Exists"}]) == TaintVerdict()


ADDED = NOW - timedelta(seconds=60)


@pytest.mark.parametrize(
    ("seconds", "added", "left"),
    [
        (90, ADDED, 30),
        (61, ADDED, 1),
        (90, None, 90),
        (60, ADDED, None),
        (10, ADDED, None),
        (0, None, None),
        (-5, ADDED, None),
        (-5, None, None),
        (-(10**12), None, None),
    ],
)
def test_tolerated_seconds_count_from_when_the_taint_was_added(seconds, added, left):
    there = taint("NoExecute", time_added=added)
    found = verdict(there, tolerations=[{"operator": "Exists", "tolerationSeconds": seconds}])
    if left is None:
        assert found == TaintVerdict(drives_off=there)
    else:
        assert found == TaintVerdict(until=NOW + timedelta(seconds=left))


@pytest.mark.parametrize("seconds", [10**12, 2**63 - 1])
def test_seconds_beyond_every_calendar_are_for_ever(seconds):
    there = taint("NoExecute", time_added=ADDED)
    found = verdict(there, tolerations=[{"operator": "Exists", "tolerationSeconds": seconds}])
    assert found == TaintVerdict()


def test_the_first_toleration_that_matches_counts():
    tolerations = [
        {"key": "other", "operator": "Exists", "tolerationSeconds": 1},
        {"key": "k", "operator": "Exists", "tolerationSeconds": 20},
        {"operator": "Exists"},
    ]
    found = verdict(taint("NoExecute", time_added=NOW), tolerations=tolerations)
    assert found.until == NOW + timedelta(seconds=20)


def test_the_earliest_end_of_all_taints_counts():
    tolerations = [
        {"key": "a", "operator": "Exists", "tolerationSeconds": 50},
        {"key": "b", "operator": "Exists", "tolerationSeconds": 20},
    ]
    taints = [taint("NoExecute", key=key, time_added=NOW) for key in "ab"]
    assert verdict(*taints, tolerations=tolerations).until == NOW + timedelta(seconds=20)


def test_seconds_of_a_no_schedule_toleration_mean_nothing():
    tolerations = [{"operator": "Exists", "tolerationSeconds": 0}]
    assert verdict(taint(time_added=ADDED), tolerations=tolerations) == TaintVerdict()
