"""What a status is worth."""

from dataclasses import replace

import pytest

from kmm_common.desired import ModuleState
from kmm_cp.policy.truth import Truth, is_loaded, truth_of
from support.policy import DIGEST, OTHER_DIGEST, entry, failed, loaded, node, state


@pytest.mark.parametrize(
    ("node_boot", "status_boot", "live", "expected"),
    [
        ("a", "a", False, Truth.CURRENT),
        ("a", "a", True, Truth.CURRENT),
        ("b", "a", False, Truth.PAST),
        ("b", "a", True, Truth.CURRENT),
        ("", "a", False, Truth.CURRENT),
        ("a", "", False, Truth.UNKNOWN),
        ("a", "", True, Truth.UNKNOWN),
    ],
)
def test_a_status_is_about_the_running_boot_unless_the_node_says_another_one(
    node_boot, status_boot, live, expected
):
    nms = state(boot_id=status_boot)
    assert truth_of(node(boot_id=node_boot), nms, live=live) is expected


def test_without_a_node_modules_state_nothing_is_known():
    assert truth_of(node(), None, live=True) is Truth.UNKNOWN


PINNED, OPEN = entry(), entry(digest="")


@pytest.mark.parametrize(
    ("of", "report", "observed", "expected"),
    [
        (PINNED, loaded(PINNED), 3, True),
        (PINNED, loaded(PINNED), 2, True),
        (PINNED, None, 3, False),
        (PINNED, failed(PINNED), 3, False),
        (PINNED, loaded(PINNED, in_kernel=False), 3, False),
        (PINNED, loaded(PINNED, uid="older"), 3, False),
        (PINNED, loaded(PINNED, config_hash="older"), 3, False),
        (PINNED, loaded(PINNED, state=ModuleState.UNLOADING), 3, False),
        (PINNED, loaded(entry(digest=OTHER_DIGEST)), 3, False),
        (OPEN, loaded(OPEN, digest=DIGEST), 3, True),
        (OPEN, loaded(OPEN, digest=DIGEST), 2, False),
        (OPEN, loaded(OPEN, digest=DIGEST, config_hash="older"), 3, False),
        (OPEN, loaded(OPEN, digest=DIGEST, in_kernel=False), 3, False),
    ],
)
def test_an_entry_is_loaded_if_exactly_its_config_is(of, report, observed, expected):
    assert is_loaded(of, report, state(of, observed=observed)) is expected


def test_a_node_that_pulled_by_itself_may_have_the_image_of_before():
    """The hash does not cover the image's name: an older generation proves nothing."""
    newer = replace(OPEN, image="registry.example/kmod:2")
    before = loaded(OPEN, digest=DIGEST)
    assert not is_loaded(newer, before, state(newer, generation=4, observed=3))
