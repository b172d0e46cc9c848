"""`kmm status`: the fleet in numbers, and each failure in words."""

import json
from pathlib import Path
from typing import Any

import pytest

from kmm_cli.fleet import fleet
from kmm_cli.render import as_json, as_text

README = Path(__file__).resolve().parents[3] / "README.md"
LOADED = {"state": "Loaded", "inKernel": True, "configHash": "h1"}
BUSY = {"reason": "InUse", "message": "slhc is used by ppp_generic", "kernelLog": ["a line"]}


def condition(
    kind: str, reason: str, message: str = "why", *, status: str = "True"
) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


READY = condition("Ready", "Ready")


def module(name: str = "m", *conditions: dict[str, Any], **status: Any) -> dict[str, Any]:
    told = {"observedGeneration": 1, "conditions": list(conditions or [READY]), **status}
    return {"metadata": {"namespace": "ns", "name": name, "generation": 1}, "status": told}


def state(
    node: str, *reported: dict[str, Any], desired: bool = True, connected: bool = True
) -> dict[str, Any]:
    entry = {
        "namespace": "ns",
        "name": "m",
        "uid": "u",
        "kernelVersion": "6.1.176",
        "image": "i:1",
        "imageDigest": "sha256:a",
        "configHash": "h1",
    }
    told = [{"namespace": "ns", "name": "m", "uid": "u", **each} for each in reported]
    return {
        "metadata": {"name": node},
        "spec": {"modules": [entry] if desired else []},
        "status": {
            "kernelVersion": "6.1.176",
            "daemon": {"connected": connected},
            "modules": told,
        },
    }


def test_nodes_are_counted_by_kernel_and_state() -> None:
    seen = fleet([module()], [state("n1", LOADED), state("n2"), state("n3", connected=False)])
    (row,) = seen.rows
    assert (row.module, row.kernel, row.nodes) == ("ns/m", "6.1.176", 3)
    assert row.states == {"Loaded": 1, "Pending": 1, "Disconnected": 1}
    assert (seen.nodes, seen.connected) == (3, 2)


def test_what_a_node_without_a_session_said_last_is_not_counted_as_loaded() -> None:
    seen = fleet([module()], [state("n1", LOADED), state("n2", LOADED, connected=False)])
    assert seen.rows[0].states == {"Loaded": 1, "Disconnected": 1}
    first, _, heading, row = as_text(seen, colour=True).splitlines()
    assert first == "2 nodes, 1 connected; not connected: n2"
    assert heading.split()[2:] == ["NODES", "LOADED", "DISCONNECTED"]
    assert row.startswith("\x1b[33m") and row.split()[-3:] == ["2", "1", "1\x1b[0m"]


@pytest.mark.parametrize(("status", "reason"), [("True", "Paused"), ("False", "InvalidAnnotation")])
def test_what_is_held_by_hand_is_told_and_is_no_want_of_readiness(status: str, reason: str) -> None:
    paused = condition("Paused", reason, status=status)
    held = state("n1", LOADED)
    held["status"]["conditions"] = [paused]
    seen = fleet([module("m", READY, paused)], [held, state("n2", LOADED)])
    text = as_text(seen, colour=False)
    assert text.endswith(f"Held by hand:\n  ns/m: {reason} (Paused)\n    why")
    assert "Not ready:" not in text
    node_is_held = status == "True"
    assert seen.paused == (("n1",) if node_is_held else ())
    assert text.splitlines()[0].endswith("; paused: n1") is node_is_held


def test_only_some_nodes_without_a_session_are_named() -> None:
    nodes = [state(f"n{number:02}", connected=False) for number in range(12)]
    head = as_text(fleet([], nodes), colour=False).splitlines()[0]
    assert head.endswith("n08, n09 and 2 more")


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        ([READY], []),
        ([condition("Ready", "NodesFailed", status="False")], ["NodesFailed (Ready)"]),
        (
            [
                condition("Ready", "NameTooLong", status="False"),
                condition("Stalled", "NameTooLong"),
            ],
            ["NameTooLong (Stalled)"],
        ),
        (
            [
                condition("Ready", "Deleting", status="False"),
                condition("DeletionWaits", "WaitingForUnload"),
            ],
            ["Deleting (Ready)", "WaitingForUnload (DeletionWaits)"],
        ),
        ([READY, condition("Stalled", "Ready", status="False")], []),
        ([condition("Theirs", "x")], ["Unseen (Ready)"]),
    ],
    ids=["ready", "not ready", "stalled", "deletion waits", "not stalled", "unseen"],
)
def test_what_a_module_says_of_itself_is_told(
    conditions: list[dict[str, Any]], told: list[str]
) -> None:
    seen = fleet([module("m", *conditions)], [state("n1", LOADED)])
    assert [f"{each.reason} ({each.about})" for each in seen.problems] == told
    text = as_text(seen, colour=False)
    assert ("Not ready:" in text) is bool(told)
    assert all(f"  ns/m: {each}" in text for each in told)


def test_conditions_of_an_earlier_generation_are_not_believed() -> None:
    (problem,) = fleet([module(observedGeneration=0)], []).problems
    assert problem.reason == "Unseen"
    assert "generation 1" in problem.message


@pytest.mark.parametrize("bad", ["Missing", "Failed"])
def test_an_image_that_is_not_there_is_told_with_its_kernel(bad: str) -> None:
    images = [
        {"kernel": "6.1", "image": "r/m:1", "state": bad, "message": "no such tag"},
        {"kernel": "6.2", "image": "r/m:2", "state": "Exists"},
    ]
    seen = fleet([module("m", READY, images=images)], [])
    assert [(each.about, each.reason) for each in seen.problems] == [("Image", bad)]
    text = as_text(seen, colour=False)
    assert f"ns/m: {bad} (Image)\n    r/m:1 for kernel 6.1: no such tag" in text


def test_an_outdated_configuration_is_not_counted_as_loaded() -> None:
    seen = fleet([module()], [state("n1", LOADED | {"configHash": "old"})])
    assert seen.rows[0].states == {"Pending": 1}


def test_a_module_on_its_way_out_is_still_shown() -> None:
    leaving = {"state": "Failed", "inKernel": True, "error": BUSY}
    seen = fleet([], [state("n1", leaving, desired=False)])
    assert seen.rows[0].states == {"Failed": 1}
    assert seen.failures[0].reason == "InUse"


def test_a_failure_is_told_with_reason_message_and_kernel_log() -> None:
    text = as_text(
        fleet([module()], [state("n1", {"state": "Failed", "error": BUSY})]), colour=False
    )
    assert "ns/m on n1: InUse" in text
    assert "slhc is used by ppp_generic" in text
    assert "kernel: a line" in text


def test_a_warning_is_told_below_the_failures() -> None:
    warned = {**LOADED, "warning": "m ignores parameter bogus"}
    seen = fleet([module()], [state("n2", warned), state("n1", warned), state("n3", LOADED)])
    assert [(each.module, each.node) for each in seen.warnings] == [("ns/m", "n1"), ("ns/m", "n2")]
    assert seen.rows[0].states == {"Loaded": 3}
    text = as_text(seen, colour=False)
    assert text.endswith("  ns/m on n2\n    m ignores parameter bogus")
    assert "\nWarnings:\n  ns/m on n1\n" in text


def test_a_module_on_no_node_says_why() -> None:
    ready = condition("Ready", "NoMatchingNodes", "no node should have it; kept out of: n1")
    text = as_text(fleet([module("other", ready)], []), colour=False)
    told = "ns/other: NoMatchingNodes: no node should have it; kept out of: n1"
    assert f"On no node:\n  {told}" in text


def test_a_module_on_no_node_that_is_not_ready_is_told_once() -> None:
    bad = condition("Ready", "InvalidTemplate", "field x", status="False")
    seen = fleet([module("other", bad)], [])
    assert [each.module for each in seen.unmatched] == ["ns/other"]
    assert as_text(seen, colour=False).count("ns/other") == 1


def test_the_readme_shows_what_is_printed() -> None:
    """The sandbox's Module, and one that no node may have."""
    message = "no node should have it; kept out of: node1 (the node is cordoned)"
    old = module("old", condition("Ready", "NoMatchingNodes", message))
    found = [_sample(state(f"node{number}", LOADED)) for number in (1, 2, 3)]
    text = as_text(fleet([_sample(module()), old], found), colour=False)
    assert f"$ kmm status\n{text}\n```" in README.read_text()


def _sample(given: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of ns/m as if it were of default/slip."""
    text = json.dumps(given).replace('"namespace": "ns"', '"namespace": "default"')
    renamed: dict[str, Any] = json.loads(text.replace('"name": "m"', '"name": "slip"'))
    return renamed


def test_status_that_cannot_be_read_is_as_good_as_none() -> None:
    bad = state("n1", LOADED)
    bad["status"]["daemon"]["since"] = "2026-11-25T10:00:00"
    seen = fleet([module()], [bad])
    assert seen.rows[0].states == {"Pending": 1}


def test_piped_text_has_no_colours_and_a_terminal_has() -> None:
    seen = fleet([module()], [state("n1", LOADED)])
    assert "\x1b[" not in as_text(seen, colour=False)
    assert "\x1b[32m" in as_text(seen, colour=True)


def test_json_is_one_object_with_everything() -> None:
    stalled = condition("Stalled", "NodesFailed")
    seen = fleet([module("m", READY, stalled), module("x")], [state("n1", LOADED)])
    content = json.loads(as_json(seen))
    assert content["rows"][0]["states"] == {"Loaded": 1}
    assert content["disconnected"] == []
    assert content["problems"] == [
        {"module": "ns/m", "about": "Stalled", "reason": "NodesFailed", "message": "why"}
    ]
    assert content["unmatched"] == [{"module": "ns/x", "reason": "Ready", "message": "why"}]
