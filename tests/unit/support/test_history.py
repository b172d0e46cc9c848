"""The history checker must be able to fail: each invariant, broken once."""

from typing import Any

import pytest

from kmm_common.logs import Fact
from support.history import FAILED, STARTED, STOPS, check, merged

UID = "u1"


def published(
    generation: int = 1, *, digest: str = "sha256:a", config: str = "h1"
) -> dict[str, Any]:
    modules = [{"ref": "ns/m", "digest": digest, "hash": config}] if digest else []
    return {
        "msg": Fact.PUBLISHED,
        "ts": "1",
        "node": "n1",
        "uid": UID,
        "generation": generation,
        "modules": modules,
    }


def accepted(generation: int = 1, uid: str = UID) -> dict[str, Any]:
    return {"msg": Fact.ACCEPTED, "ts": "2", "uid": uid, "generation": generation, "boot_id": "b1"}


def step(step: str = "load", *, ended: bool = False, **fields: Any) -> dict[str, Any]:
    base = {
        "msg": Fact.STEP_ENDED if ended else Fact.STEP_STARTED,
        "ts": "3",
        "step": step,
        "ref": "ns/m",
        "uid": UID,
        "generation": 1,
        "digest": "sha256:a",
        "hash": "h1",
        "boot_id": "b1",
        "ok": True,
    }
    return base | fields


def reported(state: str = "Loaded", *, in_kernel: bool = True, ts: str = "4") -> dict[str, Any]:
    module = {"ref": "ns/m", "state": state, "in_kernel": in_kernel, "hash": "h1"}
    return {"msg": Fact.REPORTED, "ts": ts, "modules": [module]}


def labelled(ts: str = "5", *, boot: str = "b1") -> dict[str, Any]:
    fields = {"node": "n1", "boot_id": boot, "added": ["ns/m"], "removed": []}
    return {"msg": Fact.LABELLED, "ts": ts, **fields}


def unlabelled(ts: str = "7") -> dict[str, Any]:
    return labelled(ts) | {"added": [], "removed": ["ns/m"]}


def told(message: str, ts: str = "2", **fields: Any) -> dict[str, Any]:
    return {"msg": message, "ts": ts, **fields}


LOAD = [step(), step(ended=True)]
GOOD = [accepted(), *LOAD, reported()]


UNPUBLISHED = [accepted(), *LOAD, accepted(2), step("unload", generation=2)]
LIFE = [told(STARTED), told(STOPS)]
TAKEN_OUT = [*GOOD, reported("Failed", in_kernel=False, ts="6")]


def test_a_good_history_has_no_violation() -> None:
    unload = [
        accepted(2),
        step("unload", generation=2),
        step("unload", generation=2, ended=True),
        accepted(3),
        step(generation=3),
        step(generation=3, ended=True),
    ]
    plane = [published(), published(2, digest=""), published(3), labelled()]
    assert check(plane, {"n1": [*GOOD, *unload]}) == []


@pytest.mark.parametrize(
    ("invariant", "plane", "daemon"),
    [
        ("ordered", [published()], [accepted(2), accepted(1)]),
        ("ordered", [published()], [accepted(1), accepted(1, "u2"), accepted(2)]),
        ("authentic", [published(digest="sha256:b")], [accepted(), *LOAD]),
        ("authentic", [], [accepted(), *LOAD]),
        ("fenced", [published(), published(2)], [accepted(1), accepted(2), *LOAD]),
        ("once", [published()], [accepted(), *LOAD, *LOAD]),
        ("quiet", [published()], [accepted(), *LOAD, step("unload")]),
        ("quiet", [published()], UNPUBLISHED),
        ("quiet", [*LIFE, *LIFE, published()], UNPUBLISHED),
        ("quiet", [told(STARTED, "0"), told(STARTED, "0"), published()], UNPUBLISHED),
        ("quiet", [published(), told(STARTED, "9"), told(STARTED, "9")], UNPUBLISHED),
        ("quiet", [published(), told(FAILED, controller="node", key="n2")], UNPUBLISHED),
        ("quiet", [published(), told(FAILED, controller="label", key="n1")], UNPUBLISHED),
        (
            "quiet",
            [published(), published(3), told(FAILED, controller="node", key="n1")],
            UNPUBLISHED,
        ),
        ("honest", [published()], [accepted(), step("unload", ended=True), reported()]),
        ("labelled", [published(), labelled("3")], GOOD),
        ("labelled", [published(), labelled()], [accepted(), *LOAD]),
        ("labelled", [published(), labelled(), unlabelled(), labelled("8")], TAKEN_OUT),
        ("labelled", [published(), labelled(boot="b2")], [*GOOD, accepted() | {"boot_id": "b2"}]),
    ],
)
def test_a_broken_promise_is_found(
    invariant: str, plane: list[dict[str, Any]], daemon: list[dict[str, Any]]
) -> None:
    assert invariant in {violation.invariant for violation in check(plane, {"n1": daemon})}


def test_a_load_after_the_module_vanished_is_no_second_load() -> None:
    history = [accepted(), *LOAD, reported("Failed", in_kernel=False), *LOAD]
    assert check([published()], {"n1": history}) == []


@pytest.mark.parametrize(
    "gap",
    [
        [told(STARTED), told(STARTED)],
        [told(FAILED, controller="node", key="n1")],
        [told(FAILED, "9", controller="node", key="n1")],
    ],
)
def test_an_unload_whose_publication_may_have_been_lost_is_none_of_ours(
    gap: list[dict[str, Any]],
) -> None:
    """The control plane was killed, or got no answer, between the write and its line."""
    assert check([published(), *gap], {"n1": UNPUBLISHED}) == []


@pytest.mark.parametrize(
    ("gone", "last", "kept"),
    [((), FAILED, False), (("a",), FAILED, True), (("a",), STOPS, False)],
    ids=["runs", "killed", "stopped"],
)
def test_only_a_replica_that_is_gone_without_a_word_may_have_written_more(
    gone: tuple[str, ...], last: str, kept: bool
) -> None:
    replica = [told(STARTED, "0"), published(), told(last, "3", controller="node", key="n2")]
    assert (check(merged({"a": replica}, gone=gone), {"n1": UNPUBLISHED}) == []) is kept


def test_a_label_that_comes_back_after_the_module_came_back_is_fine() -> None:
    back = [step(ts="7"), step(ended=True, ts="7"), reported(ts="8")]
    plane = [published(), labelled(), unlabelled("9"), labelled("91")]
    assert check(plane, {"n1": [*TAKEN_OUT, *back]}) == []


def behind(plane: list[dict[str, Any]], daemon: list[dict[str, Any]]) -> bool:
    """Tell whether a node that could be reached is found not to be up to date."""
    found = check(plane, {"n1": daemon}, reachable=["n1"])
    return "live" in {violation.invariant for violation in found}


def test_reachable_node_without_the_newest_state_is_found() -> None:
    plane = [published(), published(2)]
    assert behind(plane, [])
    assert behind(plane, GOOD)
    assert behind(plane, [accepted(2, "u2")])
    assert not behind(plane, [*GOOD, accepted(2)])
    assert check(plane, {"n1": GOOD}) == [], "nobody says that it could be reached"


def test_node_that_has_more_than_was_logged_is_up_to_date() -> None:
    """The control plane was killed between the write and its line."""
    assert not behind([published()], [accepted(2)])
    assert not behind([], GOOD[:1])
