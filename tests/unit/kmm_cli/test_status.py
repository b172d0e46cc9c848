"""`kmm status`: the fleet in numbers, and each failure in words."""

import json
from typing import Any

from kmm_cli.fleet import fleet
from kmm_cli.render import as_json, as_text

LOADED = {"state": "Loaded", "inKernel": True, "configHash": "h1"}
BUSY = {"reason": "InUse", "message": "slhc is used by ppp_generic", "kernelLog": ["a line"]}


def module(name: str = "m") -> dict[str, Any]:
    return {"metadata": {"namespace": "ns", "name": name}}


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
    assert row.states == {"Loaded": 1, "Pending": 2}
    assert (seen.nodes, seen.connected) == (3, 2)


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


def test_a_module_on_no_node_is_named() -> None:
    assert "On no node: ns/other" in as_text(fleet([module("other")], []), colour=False)


def test_piped_text_has_no_colours_and_a_terminal_has() -> None:
    seen = fleet([module()], [state("n1", LOADED)])
    assert "\x1b[" not in as_text(seen, colour=False)
    assert "\x1b[32m" in as_text(seen, colour=True)


def test_json_is_one_object_with_everything() -> None:
    content = json.loads(as_json(fleet([module()], [state("n1", LOADED)])))
    assert content["rows"][0]["states"] == {"Loaded": 1}
