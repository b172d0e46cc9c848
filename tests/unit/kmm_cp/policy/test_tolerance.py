"""How many nodes may fail."""

import pytest

from kmm_common.api.names import TOLERATED_FAILURES_ANNOTATION
from kmm_cp.policy.tolerance import Tolerance, tolerance


@pytest.mark.parametrize(
    ("text", "nodes", "expected"),
    [
        ("0", 10, 0),
        ("3", 10, 3),
        ("3", 1, 3),
        ("0%", 10, 0),
        ("10%", 10, 1),
        ("10%", 19, 1),
        ("10%", 9, 0),
        ("100%", 7, 7),
        ("50%", 0, 0),
    ],
)
def test_a_number_is_itself_and_a_share_is_rounded_down(text, nodes, expected):
    assert tolerance({}, text).of(nodes) == expected
    assert tolerance({TOLERATED_FAILURES_ANNOTATION: text}, "99").of(nodes) == expected


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "10 %", "%", "1" * 10, "٣"])
def test_an_annotation_that_is_neither_is_said_and_the_setting_used(text):
    found = tolerance({TOLERATED_FAILURES_ANNOTATION: text}, "2")
    assert found.of(10) == 2
    assert TOLERATED_FAILURES_ANNOTATION in found.problem


def test_a_setting_that_is_neither_tolerates_nothing():
    assert tolerance({}, "x") == Tolerance()
