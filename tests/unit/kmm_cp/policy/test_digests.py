"""Which bytes an image stands for."""

from dataclasses import replace

import pytest

from kmm_cp.policy.digests import ImageKey, Pending, image_key, known_digests, pinned_digest
from kmm_cp.policy.digests import reported_digest as told
from support.policy import (
    DIGEST,
    OTHER_DIGEST,
    entry,
    failed,
    loaded,
    pending,
    pinned,
    state,
    unresolved,
)

OPEN, KNOWN = entry(digest=""), entry(digest=OTHER_DIGEST)
PENDING = Pending()


def with_image(of, image):
    return replace(of, image=image)


@pytest.mark.parametrize(
    ("nms", "lookup", "expected"),
    [
        (None, pinned, DIGEST),
        (state(), pinned, DIGEST),
        (state(KNOWN), pinned, DIGEST),
        (None, pending, PENDING),
        (state(), pending, PENDING),
        (state(KNOWN), pending, OTHER_DIGEST),
        (state(OPEN), pending, ""),
        (state(replace(KNOWN, image="r.example/x:2")), pending, PENDING),
        (state(replace(KNOWN, kernel_version="5.4.0")), pending, PENDING),
        (state(replace(KNOWN, uid="older")), pending, PENDING),
        (None, unresolved, ""),
        (state(), unresolved, ""),
        (state(KNOWN), unresolved, OTHER_DIGEST),
        (state(replace(KNOWN, image="r.example/x:2")), unresolved, ""),
        (state(replace(KNOWN, uid="older")), unresolved, ""),
    ],
)
def test_a_node_keeps_its_digest_until_the_registry_answers(nms, lookup, expected):
    assert pinned_digest(entry(digest=""), nms, lookup) == expected


@pytest.mark.parametrize("lookup", [pending, unresolved])
def test_the_digest_that_a_daemon_found_out_is_adopted(lookup):
    nms = state(OPEN, reports=(loaded(OPEN, digest=OTHER_DIGEST),))
    assert pinned_digest(OPEN, nms, lookup) == OTHER_DIGEST


def test_parameters_may_change_while_the_registry_is_away():
    changed = replace(OPEN, in_tree_modules_to_remove=("old",))
    assert pinned_digest(changed, state(KNOWN), unresolved) == OTHER_DIGEST


@pytest.mark.parametrize("lookup", [pinned, pending, unresolved])
def test_a_digest_in_the_reference_needs_no_registry(lookup):
    image = f"registry.example/kmod:1@{OTHER_DIGEST}"
    assert pinned_digest(with_image(OPEN, image), None, lookup) == OTHER_DIGEST


@pytest.mark.parametrize(
    ("report", "observed", "expected"),
    [
        (loaded(OPEN, digest=OTHER_DIGEST), 3, OTHER_DIGEST),
        (loaded(OPEN, digest=OTHER_DIGEST), 2, ""),
        (loaded(OPEN, digest=OTHER_DIGEST, config_hash="x"), 3, ""),
        (loaded(OPEN, digest=OTHER_DIGEST, uid="older"), 3, ""),
        (failed(OPEN), 3, ""),
    ],
)
def test_a_daemon_tells_a_digest_only_when_done_with_this_very_spec(report, observed, expected):
    assert told(OPEN, state(OPEN, reports=(report,), observed=observed)) == expected


def test_a_daemon_that_has_not_spoken_tells_nothing():
    assert told(OPEN, state(OPEN)) == ""


def test_an_image_is_resolved_for_reference_kernel_and_module():
    key = ImageKey(image=OPEN.image, kernel_version=OPEN.kernel_version, module_uid="uid-simple")
    assert image_key(OPEN) == image_key(KNOWN) == key


def on(name, *modules, **status):
    return state(*modules, name=name, **status)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], None),
        ([on("a", OPEN)], None),
        ([on("a", KNOWN)], OTHER_DIGEST),
        ([on("a", OPEN, reports=(loaded(OPEN, digest=DIGEST),))], DIGEST),
        ([on("a", entry()), on("b", KNOWN), on("c", KNOWN)], OTHER_DIGEST),
        ([on("a", KNOWN), on("b", entry())], DIGEST),
    ],
)
def test_what_most_nodes_have_is_what_an_image_is_known_to_stand_for(states, expected):
    for order in (states, list(reversed(states))):
        assert known_digests(order).get(image_key(OPEN)) == expected


def test_known_digests_can_be_asked_for_one_module():
    other = entry("other")
    found = known_digests([on("a", KNOWN, other)], only=other.ref)
    assert found == {image_key(other): DIGEST}
