"""Conditions as Kubernetes keeps them."""

from datetime import timedelta

import pytest

from kmm_common.api import names
from kmm_common.clock import rfc3339
from kmm_cp.policy.conditions import Condition, merged_conditions
from support.policy import NOW

EARLIER = rfc3339(NOW - timedelta(hours=1))


def ready(status=True, message="m"):
    return Condition(
        type=names.Condition.READY, status=status, reason=names.Reason.READY, message=message
    )


def merged(old, *new):
    return merged_conditions(old, new, generation=4, now=NOW)


def test_a_new_condition_is_written_with_the_time():
    assert merged([], ready()) == [
        {
            "type": "Ready",
            "status": "True",
            "observedGeneration": 4,
            "lastTransitionTime": rfc3339(NOW),
            "reason": "Ready",
            "message": "m",
        }
    ]


@pytest.mark.parametrize(
    ("before", "after", "moment"),
    [(True, True, EARLIER), (False, False, EARLIER), (True, False, None), (False, True, None)],
)
def test_the_transition_time_changes_with_the_status_only(before, after, moment):
    old = merged_conditions([], [ready(before)], generation=1, now=NOW - timedelta(hours=1))
    found = merged(old, ready(after, message="other"))
    assert found[0]["lastTransitionTime"] == (moment or rfc3339(NOW))
    assert (found[0]["message"], found[0]["observedGeneration"]) == ("other", 4)


def test_conditions_that_are_merged_again_do_not_change():
    old = merged([], ready())
    later = merged_conditions(old, [ready()], generation=4, now=NOW + timedelta(days=1))
    assert later == old


def test_conditions_of_others_stay_and_ours_that_are_over_go():
    other = {"type": "Custom", "status": "True", "lastTransitionTime": EARLIER}
    gone = {"type": "DeletionWaits", "status": "True", "lastTransitionTime": EARLIER}
    assert [each["type"] for each in merged([gone, other], ready())] == ["Ready", "Custom"]
