"""What the finalizer of a Module waits for."""

from datetime import timedelta

import pytest

from kmm_common.api.names import MODULE_FINALIZER, PAUSED_ANNOTATION
from kmm_common.clock import rfc3339
from kmm_common.desired import ModuleFailure, ModuleState
from kmm_cp.policy.deletion import Wait, held_by_others, waits_for
from support.policy import NOW, entry, loaded, module, node, state

LIMIT = 300.0
UNLOADING = loaded(entry(), state=ModuleState.UNLOADING)
IN_USE = loaded(
    entry(),
    state=ModuleState.FAILED,
    error=ModuleFailure(reason="InUse", message="simple is in use by: holder"),
)


NODES = (node(),)


def waited(*states, nodes=NODES, live=(), annotations=None):
    deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z", "annotations": annotations or {}}
    return waits_for(
        module(metadata=deleted),
        {each.name: each for each in nodes},
        states,
        live=lambda name: name in live,
        now=NOW,
        disconnected_seconds=LIMIT,
    )


def ago(seconds):
    return rfc3339(NOW - timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("annotations", "paused", "holders"),
    [
        ({PAUSED_ANNOTATION: "true"}, None, "the Module"),
        ({}, "true", "the Node"),
        ({PAUSED_ANNOTATION: "true"}, "true", "the Module and the Node"),
    ],
)
@pytest.mark.parametrize("connected", [True, False])
def test_a_pause_is_waited_for_and_who_has_it_is_named(annotations, paused, holders, connected):
    nms = state(entry(), connected=connected, since=ago(3600))
    found = waited(nms, nodes=(node(paused=paused),), annotations=annotations)
    message = f"remove annotation {PAUSED_ANNOTATION} from {holders}"
    assert found == (Wait(node="node-1", reason="Paused", message=message),)


def test_a_pause_that_holds_nothing_is_not_waited_for():
    assert waited(state(), annotations={PAUSED_ANNOTATION: "true"}) == ()


def test_nothing_is_waited_for_once_every_node_has_unloaded():
    other = entry("other")
    assert waited(state(), state(other, reports=(loaded(other),))) == ()


def test_a_connected_node_that_unloads_is_waited_for():
    wait = Wait(node="node-1", reason="WaitingForUnload", message="the daemon says Unloading")
    assert waited(state(reports=(UNLOADING,))) == (wait,)


def test_a_module_in_use_is_waited_for_and_its_holder_named():
    wait = Wait(node="node-1", reason="InUse", message="simple is in use by: holder")
    assert waited(state(reports=(IN_USE,))) == (wait,)


@pytest.mark.parametrize("connected", [True, False])
def test_a_spec_that_still_has_the_module_is_waited_for(connected):
    """Only a persisted spec without it unloads on the return of a node that is away."""
    nms = state(entry(), connected=connected, since=ago(3600), boot_id="old")
    assert [(wait.node, wait.reason) for wait in waited(nms)] == [("node-1", "WaitingForUnload")]


def test_a_node_that_is_gone_is_not_waited_for():
    assert waited(state(entry(), reports=(UNLOADING,)), nodes=()) == ()


@pytest.mark.parametrize(
    ("connected", "since", "live", "waits"),
    [
        (True, ago(3600), False, True),
        (False, ago(299), False, True),
        (False, ago(300), False, False),
        (False, "", False, False),
        (False, ago(3600), True, True),
    ],
)
def test_a_node_that_is_away_for_too_long_is_not_waited_for(connected, since, live, waits):
    nms = state(reports=(UNLOADING,), connected=connected, since=since)
    assert bool(waited(nms, live=["node-1"] if live else [])) is waits


@pytest.mark.parametrize(("live", "waits"), [(False, False), (True, True)])
def test_a_node_that_has_booted_since_is_not_waited_for_unless_its_session_says(live, waits):
    nms = state(reports=(UNLOADING,), boot_id="old")
    assert bool(waited(nms, live=["node-1"] if live else [])) is waits


def test_a_node_that_has_said_nothing_yet_is_not_waited_for():
    assert waited(state(boot_id="", connected=False)) == ()


@pytest.mark.parametrize(
    ("accepted", "observed", "waits"),
    [(2, 2, True), (-1, -1, True), (3, 2, False), (-1, 3, False)],
)
def test_a_report_about_an_older_spec_does_not_say_that_nothing_is_loaded(
    accepted, observed, waits
):
    """The daemon may have begun to load what it was told before."""
    message = "its daemon has not said yet what it has without the Module"
    wait = Wait(node="node-1", reason="WaitingForUnload", message=message)
    nms = state(accepted=accepted, observed=observed)
    assert waited(nms) == ((wait,) if waits else ())


@pytest.mark.parametrize("live", [True, False])
def test_a_status_that_somebody_blanked_is_waited_for_while_a_session_stands(live):
    nms = state(boot_id="", connected=False, since="", accepted=-1, observed=-1)
    assert bool(waited(nms, live=["node-1"] if live else [])) is live


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ({"connected": False, "since": ago(299)}, True),
        ({"connected": False, "since": ago(300)}, False),
        ({"boot_id": "old"}, False),
    ],
)
def test_a_node_that_is_away_need_not_accept_the_spec_forever(changes, waits):
    assert bool(waited(state(accepted=2, observed=2, **changes))) is waits


def test_nodes_are_named_in_order():
    names = ["b", "c", "a"]
    found = waited(
        *(state(name=name, reports=(UNLOADING,)) for name in names),
        nodes=[node(name) for name in names],
    )
    assert [wait.node for wait in found] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("finalizers", "held"),
    [
        ([], ""),
        ([MODULE_FINALIZER], ""),
        (["a.test/x", MODULE_FINALIZER], "held by finalizers of others: a.test/x"),
        ([f"f{n}" for n in range(10)], "f7, f8, f9"),
        ([f"f{n}" for n in range(12)], "f8, f9, and 2 more"),
    ],
)
def test_finalizers_of_others_are_named_ten_at_most(finalizers, held):
    told = held_by_others(module(metadata={"finalizers": finalizers}))
    assert told.endswith(held)
    assert bool(told) == bool(held)
