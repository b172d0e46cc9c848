"""Modules and nodes that are held by hand."""

import asyncio

from kmm_common.api.names import PAUSED_ANNOTATION
from kmm_sandbox.kubeapi import Object
from support.fleet import Fleet, eventually
from support.simnode import SimNode

PAUSED = {"annotations": {PAUSED_ANNOTATION: "true"}}


async def _spec(fleet: Fleet, node: SimNode) -> tuple[int, Object]:
    """Return generation and spec of a node's NodeModulesState."""
    state = await fleet.state(node)
    assert state is not None
    return state["metadata"]["generation"], state["spec"]


async def _paused_node(fleet: Fleet, node: SimNode, value: str | None = "true") -> None:
    """Set or remove the annotation and wait until the NodeModulesState says so."""
    await fleet.annotate_node(node, PAUSED_ANNOTATION, value)
    await eventually(
        lambda: fleet.state_condition(node, "Paused"),
        lambda found: (found is not None) is (value is not None),
        what=f"Paused of {node.name}: {value}",
    )


async def test_module_paused_before_its_first_load_is_loaded_when_the_pause_ends(
    fleet: Fleet,
) -> None:
    node = await fleet.node()
    await fleet.apply(metadata=PAUSED)
    await fleet.apply("other")
    paused = await fleet.condition("Paused", reason="Paused")
    assert PAUSED_ANNOTATION in paused["message"]
    held = await fleet.condition("Reconciling", reason="Paused")
    assert node.name in held["message"]
    await fleet.loaded(name="other")
    await fleet.reconciled(modules=2)
    assert set(await fleet.entries(node)) == {"other"}
    await fleet.annotate(PAUSED_ANNOTATION, None)
    await fleet.loaded()
    await fleet.condition("Ready", reason="Ready")
    assert "Paused" not in await fleet.conditions()
    assert node.kernel.loads(fleet.ref("other")) == 1


async def test_paused_module_stays_as_it_is_on_its_nodes_whatever_its_spec_says(
    fleet: Fleet,
) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    before = await _spec(fleet, node)
    await fleet.annotate(PAUSED_ANNOTATION, "true")
    ready = await fleet.condition("Ready", reason="Ready")
    assert ready["message"] == "loaded on 1 of 1 nodes"
    await fleet.set_parameters("m", "speed=2")
    await fleet.condition("Reconciling", reason="Paused")
    await fleet.edit("m", {"selector": {"no": "such-node"}})
    told = await eventually(
        fleet.conditions, lambda found: "to be unloaded" in found["Ready"]["message"]
    )
    assert told["Stalled"]["status"] == "False"
    assert await _spec(fleet, node) == before
    assert fleet.label() in await fleet.labels(node)
    assert node.kernel.calls == [("prepare", fleet.ref()), ("load", fleet.ref())]
    newcomer = await fleet.node("b")
    await eventually(lambda: fleet.state(newcomer))
    assert await fleet.entries(newcomer) == {}
    await fleet.edit("m", {"selector": {"no": None, "fleet": fleet.name}})
    await fleet.annotate(PAUSED_ANNOTATION, "false")
    await fleet.loaded(newcomer)
    await eventually(lambda: _loads(fleet, node), lambda loads: loads == 2)
    await fleet.condition("Ready", reason="Ready")


async def _loads(fleet: Fleet, node: SimNode) -> int:
    return node.kernel.loads(fleet.ref())


async def test_deletion_of_a_paused_module_waits_for_the_end_of_the_pause(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    before = await _spec(fleet, node)
    await fleet.annotate(PAUSED_ANNOTATION, "true")
    await fleet.condition("Paused")
    await fleet.delete()
    waits = await fleet.condition("DeletionWaits")
    assert f"{node.name}: Paused: remove annotation {PAUSED_ANNOTATION}" in waits["message"]
    await fleet.reconciled()
    assert await _spec(fleet, node) == before
    assert node.kernel.unloads(fleet.ref()) == 0
    await fleet.annotate(PAUSED_ANNOTATION, None)
    await fleet.gone()
    await fleet.unloaded(node)


async def test_paused_node_stays_as_it_is_and_is_named_and_not_waited_for(fleet: Fleet) -> None:
    held, free = await fleet.node("a"), await fleet.node("b")
    await fleet.apply()
    await fleet.loaded()
    await _paused_node(fleet, held)
    condition = await fleet.state_condition(held, "Paused")
    assert condition is not None
    assert (condition["status"], condition["reason"]) == ("True", "Paused")
    before = await _spec(fleet, held)
    await fleet.set_parameters("m", "speed=2")
    await fleet.apply("new")
    await fleet.loaded(free, name="new")
    ready = await fleet.condition("Ready", reason="NodesPaused")
    assert held.name in ready["message"]
    assert (await fleet.condition("Ready", name="new", reason="NodesPaused"))["message"].startswith(
        "loaded on 1 of 2 nodes"
    )
    await fleet.delete()
    waits = await fleet.condition("DeletionWaits")
    assert f"{held.name}: Paused" in waits["message"]
    assert await _spec(fleet, held) == before
    assert held.kernel.calls == [("prepare", fleet.ref()), ("load", fleet.ref())]
    assert fleet.label() in await fleet.labels(held)
    await _paused_node(fleet, held, None)
    await fleet.gone()
    await fleet.loaded(held, name="new")
    await fleet.unloaded(held)


async def test_paused_node_keeps_its_labels_true_and_its_condition_through_a_reboot(
    fleet: Fleet,
) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await _paused_node(fleet, node)
    since = await fleet.state_condition(node, "Paused")
    await node.go_down()
    await asyncio.to_thread(node.say_status)
    await fleet.labelled(node, present=False)
    await node.start()
    await fleet.loaded()
    assert node.kernel.loads(fleet.ref()) == 2
    await eventually(lambda: fleet.state_condition(node, "Paused"), lambda found: found == since)


async def test_paused_node_that_is_deleted_takes_its_state_along(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await _paused_node(fleet, node)
    await fleet.delete()
    await fleet.condition("DeletionWaits")
    await asyncio.to_thread(node.unregister)
    await fleet.gone()


async def test_pause_that_is_neither_true_nor_false_is_told_and_not_taken(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.annotate_node(node, PAUSED_ANNOTATION, "yes")
    await fleet.apply(metadata={"annotations": {PAUSED_ANNOTATION: "on"}})
    await fleet.loaded()
    told = await fleet.condition("Paused", status="False", reason="InvalidAnnotation")
    assert f"annotation {PAUSED_ANNOTATION} is 'on'" in told["message"]
    on_node = await eventually(lambda: fleet.state_condition(node, "Paused"))
    assert on_node is not None
    assert (on_node["status"], on_node["reason"]) == ("False", "InvalidAnnotation")
    assert f"annotation {PAUSED_ANNOTATION} is 'yes'" in on_node["message"]


async def test_restart_of_the_control_plane_in_a_pause_writes_nothing(fleet: Fleet) -> None:
    held, node = await fleet.node("a"), await fleet.node("b")
    await fleet.apply()
    await fleet.apply("free")
    await fleet.loaded()
    await fleet.loaded(name="free")
    await _paused_node(fleet, held)
    await fleet.annotate(PAUSED_ANNOTATION, "true")
    await fleet.set_parameters("m", "speed=2")
    await fleet.set_parameters("free", "speed=2")
    await fleet.condition("Reconciling", reason="Paused")
    await fleet.condition("Ready", name="free", reason="NodesPaused")
    await fleet.settled(node)
    await fleet.reconciled(modules=2)
    since = fleet.audit_position()
    await asyncio.to_thread(fleet.control_plane.restart)
    await fleet.reconciled(modules=2)
    assert fleet.writes(since) == []
    assert held.kernel.loads(fleet.ref("free")) == 1
    assert [each.kernel.loads(fleet.ref()) for each in (held, node)] == [1, 1]
