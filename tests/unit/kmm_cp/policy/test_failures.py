"""What a Module's status says of failures, and which of it is news."""

from dataclasses import replace

import pytest

from kmm_common.desired import ModuleFailure, ModuleState
from kmm_cp.policy.failures import failures_of, news
from kmm_cp.policy.outcome import Sight
from support.policy import entry, failed, loaded, module, node, state

WANTED = entry()


def sight(name: str, report=None, *, boot_id: str = "boot-1") -> Sight:
    reports = (report,) if report else ()
    return Sight(
        node=node(name, boot_id=boot_id),
        state=state(WANTED, name=name, reports=reports),
        live=False,
    )


def rows(*sights: Sight):
    return failures_of(module(), sights)


def status(*reasons: str):
    return {"failures": [row(reason) for reason in reasons]}


def row(reason: str, *, nodes: int = 1, message: str = "why"):
    return {"reason": reason, "nodes": nodes, "node": "a", "message": message}


def test_failures_are_counted_by_reason_and_the_most_frequent_is_first():
    in_use, missing = failed(WANTED, "InUse", "busy"), failed(WANTED, "ImageNotFound", "no such")
    assert rows(sight("a", in_use), sight("c", missing), sight("b", missing)) == [
        {"reason": "ImageNotFound", "nodes": 2, "node": "b", "message": "no such"},
        {"reason": "InUse", "nodes": 1, "node": "a", "message": "busy"},
    ]


def test_reason_is_cut_to_what_the_crd_takes_and_counted_as_one():
    long = ("R" * 64 + "a", "R" * 64 + "b")
    both = [sight(name, failed(WANTED, why, "x")) for name, why in zip("ab", long, strict=True)]
    assert rows(*both) == [{"reason": "R" * 64, "nodes": 2, "node": "a", "message": "x"}]


def test_failure_counts_while_it_is_tried_again():
    trying = replace(failed(WANTED), state=ModuleState.PULLING, attempts=1)
    assert [each["nodes"] for each in rows(sight("a", trying))] == [1]


@pytest.mark.parametrize(
    "harmless",
    [
        sight("a"),
        sight("a", loaded(WANTED)),
        sight("a", replace(failed(WANTED, "KernelMismatch"), state=ModuleState.PENDING)),
        sight("a", replace(failed(WANTED), uid="of the Module's predecessor")),
        sight("a", failed(WANTED), boot_id="another boot"),
        Sight(node=node("a"), state=None, live=True),
    ],
    ids=["nothing said", "loaded", "waits", "predecessor", "past boot", "no state"],
)
def test_what_is_no_failure_of_this_module_in_this_boot_does_not_count(harmless: Sight):
    assert rows(harmless) == []


def test_failure_of_an_unload_counts_too():
    busy = replace(failed(WANTED, "InUse", "held by x"), in_kernel=True)
    gone = Sight(node=node(), state=state(reports=(busy,)), live=True)
    assert [each["reason"] for each in rows(gone)] == ["InUse"]


def test_rows_and_messages_are_bounded():
    error = ModuleFailure(reason="R", message="x" * 5000)
    sights = [
        sight(f"n{number}", replace(failed(WANTED), error=replace(error, reason=f"R{number}")))
        for number in range(40)
    ]
    found = rows(*sights)
    assert len(found) == 16
    assert max(len(each["message"]) for each in found) == 512


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({}, status("InUse"), ["InUse"]),
        (status(), status("InUse", "TimedOut"), ["InUse", "TimedOut"]),
        (status("InUse"), status("InUse"), []),
        (status("InUse"), status("TimedOut"), ["TimedOut"]),
        (status("InUse"), status(), []),
        (status("InUse"), {"failures": [row("InUse", nodes=9, message="other")]}, []),
    ],
)
def test_reason_is_news_once_until_it_is_gone(before, now, told):
    assert [sentence.partition(" ")[0] for sentence in news(before, now)] == told


def test_news_name_the_node_and_count_the_nodes():
    assert list(news({}, status("InUse"))) == ["InUse on node a: why"]
    assert list(news({}, {"failures": [row("InUse", nodes=3)]})) == ["InUse on 3 nodes: a: why"]
