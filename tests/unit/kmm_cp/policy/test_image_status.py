"""The images of a Module by kernel."""

import pytest

from kmm_cp.policy.digests import Unresolved, image_key
from kmm_cp.policy.image_status import images_of
from kmm_cp.policy.outcome import Outcome
from support.policy import DIGEST, OTHER_DIGEST, entry, missing, pending, pinned, unresolved

OPEN = entry(digest="")
KNOWN = {image_key(OPEN): OTHER_DIGEST}


def on(kernel, name="node-1", **changes):
    wanted = entry(digest="", kernel_version=kernel, **changes)
    return Outcome(node=name, kernel=kernel, wanted=wanted)


def row(lookup, known, of=OPEN):
    (found,) = images_of([Outcome(node="n", kernel=of.kernel_version, wanted=of)], lookup, known)
    assert (found.pop("kernel"), found.pop("image")) == (of.kernel_version, of.image)
    return found


UNREACHABLE = "registry.example: connection refused"


@pytest.mark.parametrize(
    ("lookup", "known", "expected"),
    [
        (pinned, {}, {"digest": DIGEST, "state": "Exists"}),
        (pinned, KNOWN, {"digest": DIGEST, "state": "Exists"}),
        (pending, {}, {"state": "Unknown"}),
        (pending, KNOWN, {"digest": OTHER_DIGEST, "state": "Exists"}),
        (unresolved, {}, {"state": "Failed", "message": UNREACHABLE}),
        (unresolved, KNOWN, {"digest": OTHER_DIGEST, "state": "Exists"}),
        (missing, {}, {"state": "Missing", "message": "registry.example has no kmod:1"}),
    ],
)
def test_an_image_exists_if_registry_or_nodes_say_so(lookup, known, expected):
    assert row(lookup, known) == expected


@pytest.mark.parametrize("lookup", [pending, unresolved])
def test_a_digest_in_the_reference_is_the_digest(lookup):
    of = entry(digest="", image=f"registry.example/kmod@{OTHER_DIGEST}")
    assert row(lookup, {}, of) == {"digest": OTHER_DIGEST, "state": "Exists"}


def test_there_is_one_row_for_each_kernel_in_order():
    outcomes = [on("6.2.0"), on("6.1.0", "a"), on("6.1.0", "b"), Outcome(node="c", kernel="5.4.0")]
    assert [each["kernel"] for each in images_of(outcomes, pinned, {})] == ["6.1.0", "6.2.0"]


def test_rows_and_messages_are_bounded():
    def long_story(_):
        return Unresolved(reason="ImagePullFailed", message="x" * 5000)

    rows = images_of([on(f"6.1.{n}") for n in range(300)], long_story, {})
    assert len(rows) == 256
    assert {len(each["message"]) for each in rows} == {1024}
