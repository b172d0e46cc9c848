"""When a Secret or a tag is looked at again."""

from dataclasses import replace

import pytest

from kmm_common.api.names import PAUSED_ANNOTATION, PULL_SECRET_ANNOTATION, Reason
from kmm_cp.policy.retries import images_in_doubt, is_told, secret_to_follow
from support.policy import DIGEST, OTHER_DIGEST, entry, failed, loaded, module, state

PRIVATE = {"imageRepoSecret": {"name": "pull"}}
WANTED = entry()


def failing(*reasons, metadata=None, spec=PRIVATE):
    rows = [{"reason": reason} for reason in reasons]
    return module(spec=spec, status={"failures": rows}, metadata=metadata)


@pytest.mark.parametrize(
    ("found", "secret"),
    [
        (failing(Reason.IMAGE_UNAUTHORIZED), "pull"),
        (failing(Reason.DEVICE_ERROR, Reason.IMAGE_NOT_FOUND), "pull"),
        (failing(Reason.DEVICE_ERROR), ""),
        (failing(), ""),
        (failing(Reason.IMAGE_UNAUTHORIZED, spec={}), ""),
        (
            failing(
                Reason.IMAGE_UNAUTHORIZED, metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}
            ),
            "",
        ),
        (
            failing(
                Reason.IMAGE_UNAUTHORIZED, metadata={"annotations": {PAUSED_ANNOTATION: "true"}}
            ),
            "",
        ),
    ],
    ids=["refused", "hidden", "other failure", "none", "no secret", "deleting", "paused"],
)
def test_a_secret_is_followed_while_pulls_with_it_fail(found, secret):
    assert secret_to_follow(found) == secret


def test_nodes_are_told_of_a_version_once():
    told = module(metadata={"annotations": {PULL_SECRET_ANNOTATION: "7"}})
    assert (is_told(told, "7"), is_told(told, "8"), is_told(module(), "8")) == (True, False, False)
    assert is_told(module(), "")


@pytest.mark.parametrize("reason", [Reason.IMAGE_NOT_FOUND, Reason.WRONG_VERMAGIC])
def test_an_image_that_only_fails_is_in_doubt(reason):
    other = replace(WANTED, kernel_version="6.2")
    states = [
        state(WANTED, reports=(failed(WANTED, reason),)),
        state(WANTED, name="node-2"),
        state(other, name="node-3", reports=(loaded(other),)),
    ]
    assert images_in_doubt(module(), states) == [WANTED]


@pytest.mark.parametrize(
    "states",
    [
        [state(WANTED, reports=(failed(WANTED, Reason.IN_USE),))],
        [state(WANTED, reports=(loaded(WANTED),))],
        [state(WANTED, reports=(failed(WANTED),), accepted=2, observed=2)],
        [
            state(WANTED, reports=(failed(WANTED),)),
            state(WANTED, name="node-2", reports=(loaded(WANTED),)),
        ],
        [replace(state(WANTED, reports=(failed(WANTED),)), intact=False)],
        [state(entry(digest=""), reports=(failed(entry(digest="")),))],
        [state(replace(WANTED, uid="gone"), reports=(failed(WANTED),))],
        [state(entry(image=f"r/k@{DIGEST}"), reports=(failed(entry(image=f"r/k@{DIGEST}")),))],
        [state(entry("other"), reports=(failed(entry("other")),))],
    ],
    ids=[
        "failure of another kind",
        "loaded",
        "failure of an earlier spec",
        "loaded elsewhere",
        "edited",
        "not pinned",
        "earlier Module",
        "named by digest",
        "other Module",
    ],
)
def test_an_image_is_not_in_doubt(states):
    assert images_in_doubt(module(), states) == []


@pytest.mark.parametrize(
    "metadata",
    [{"deletionTimestamp": "2026-01-01T00:00:00Z"}, {"annotations": {PAUSED_ANNOTATION: "true"}}],
    ids=["deleting", "paused"],
)
def test_nothing_of_a_module_that_is_paused_or_deleted_is_in_doubt(metadata):
    states = [state(WANTED, reports=(failed(WANTED),))]
    assert images_in_doubt(module(metadata=metadata), states) == []


def test_a_digest_that_another_node_has_loaded_under_the_same_tag_settles_the_doubt():
    other = entry(digest=OTHER_DIGEST)
    states = [
        state(WANTED, reports=(failed(WANTED),)),
        state(other, name="node-2", reports=(loaded(other),)),
    ]
    assert images_in_doubt(module(), states) == []
