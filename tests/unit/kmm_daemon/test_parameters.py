"""Which values of a parameter are certainly not the same."""

import pytest

from kmm_daemon.parameters import Difference, difference

SAME = [
    ("a=1", "1"),
    ("a=1", "Y"),
    ("a=y", "Y"),
    ("a=on", "Y"),
    ("a", "Y"),
    ("a=0", "N"),
    ("a=n", "0"),
    ("a=0x10", "16"),
    ("a=010", "8"),
    ("a=-1", "-1"),
    ("a=16", "0x10"),
    ("a=eth0", "eth0"),
    ("a=Auto", "auto"),
    ('a="eth0"', "eth0"),
    ("a=1,2", "1,2,0,0"),
    ("a=y,n", "Y,N"),
    ("a=", "(null)"),
]
OTHER = [
    ("a=1", "2"),
    ("a=1", "N"),
    ("a=n", "Y"),
    ("a", "N"),
    ("a=0x10", "10"),
    ("a=eth0", "eth1"),
    ("a=eth0", "(null)"),
    ("a=1,2", "1,3"),
]
UNKNOWN = [
    ("a=2", "Y"),
    ("a=64K", "65536"),
    ("a=auto", "-1"),
    ("a=performance", "default [performance]"),
    ("a=2", "performance"),
    ("a=2", "Y extra"),
    ("a=eth0", ""),
]


@pytest.mark.parametrize(("wanted", "has"), [*SAME, *UNKNOWN])
def test_what_means_the_same_or_cannot_be_compared_is_no_difference(wanted: str, has: str) -> None:
    assert difference([wanted], {"a": has}) is None


@pytest.mark.parametrize(("wanted", "has"), OTHER)
def test_other_value_is_a_difference(wanted: str, has: str) -> None:
    found = difference([wanted], {"a": f"{has}\n"})
    assert found == Difference("a", wanted.partition("=")[2] or "Y", has)


def test_parameter_that_the_kernel_does_not_show_is_no_difference() -> None:
    assert difference(["hidden=1"], {"a": "2"}) is None


def test_names_are_compared_as_the_kernel_does_and_the_last_value_counts() -> None:
    assert difference(["a-b=1", "a_b=2"], {"a_b": "2"}) is None
    assert difference(["a_b=2", "a-b=1"], {"a_b": "2"}) == Difference("a_b", "1", "2")
