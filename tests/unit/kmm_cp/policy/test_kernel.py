"""Kernel versions as mappings, tags and templates see them."""

import pytest

from kmm_common.errors import TerminalError
from kmm_cp.policy.kernel import normalized, trimmed, variables


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("6.1.0-18-amd64", "6.1.0-18-amd64"),
        ("5.15.0-1040-gke+", "5.15.0-1040-gke"),
        ("5.15.0++", "5.15.0+"),
        ("5.15.0+rpt", "5.15.0+rpt"),
    ],
)
def test_one_trailing_plus_is_trimmed(version, expected):
    assert trimmed(version) == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("6.1.0-18-amd64", "6.1.0-18-amd64"),
        ("6.1.0-rpt+rpi", "6.1.0-rpt_rpi"),
        ("6.1.0+", "6.1.0"),
        ("6.1.0 ü~x_y", "6.1.0___x_y"),
    ],
)
def test_what_no_tag_may_hold_becomes_an_underscore(version, expected):
    assert normalized(version) == expected


def test_variables_split_the_version_at_dots_commas_and_dashes():
    assert variables("6.1.7-18.el9_2.x86_64+") == {
        "KERNEL_FULL_VERSION": "6.1.7-18.el9_2.x86_64",
        "KERNEL_VERSION": "6.1.7-18.el9_2.x86_64",
        "KERNEL_XYZ": "6.1.7",
        "KERNEL_X": "6",
        "KERNEL_Y": "1",
        "KERNEL_Z": "7",
    }


def test_a_version_may_be_split_at_a_dash():
    assert variables("6.1-rc7")["KERNEL_XYZ"] == "6.1.rc7"


def test_a_version_of_two_parts_is_refused():
    with pytest.raises(TerminalError, match=r"'6\.1'.*three parts") as refused:
        variables("6.1")
    assert refused.value.reason == "InvalidTemplate"
