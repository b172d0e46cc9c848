"""What becomes of a Module on nodes: loads, changes, restarts, reboots, unloads."""

import asyncio
from functools import partial

import pytest

from kmm_common.desired import ModuleRef
from support.fleet import KMM, Fleet, eventually
from support.simnode import SimNode


async def test_module_is_loaded_labelled_and_told_of_on_every_node(fleet: Fleet) -> None:
    digest = fleet.push()
    nodes = await fleet.three()
    await fleet.apply()
    await fleet.loaded()
    for node in nodes:
        report = (await fleet.reports(node))["m"]
        assert report["inKernel"] is True
        assert report["imageDigest"] == digest
        assert (await fleet.entries(node))["m"]["imageDigest"] == digest
        events = await eventually(partial(fleet.events, "default", node.name))
        message = f"Module {fleet.ref()} loaded into the kernel"
        assert events == {("ModuleLoaded", message): 1}
        assert node.kernel.loads(fleet.ref()) == 1
    await fleet.condition("Ready", reason="Ready")
    status = (await fleet.module() or {})["status"]
    assert status["moduleLoader"] == {
        "nodesMatchingSelectorNumber": 3,
        "desiredNumber": 3,
        "availableNumber": 3,
    }


async def test_changed_parameter_reloads_once_after_the_image_is_ready(fleet: Fleet) -> None:
    nodes = await fleet.three()
    await fleet.apply(modprobe={"parameters": ["speed=1"]})
    await fleet.loaded()
    for node in nodes:
        node.kernel.calls.clear()
    await fleet.set_parameters("m", "speed=2")
    for node in nodes:
        await eventually(partial(_parameters, node), lambda found: found == ("speed=2",))
    await fleet.settled()
    await fleet.loaded()
    ref = fleet.ref()
    for node in nodes:
        assert node.kernel.calls == [("prepare", ref), ("unload", ref), ("load", ref)]


async def _parameters(node: SimNode) -> tuple[str, ...] | None:
    return node.kernel.parameters.get("m")


async def test_deleted_module_is_unloaded_everywhere_and_says_so_once(fleet: Fleet) -> None:
    nodes = await fleet.three()
    await fleet.apply()
    await fleet.loaded()
    await fleet.delete()
    await fleet.gone()
    for node in nodes:
        assert node.kernel.rows == {}
        assert fleet.label() not in await fleet.labels(node)
        assert node.kernel.unloads(fleet.ref()) == 1
    events = await eventually(lambda: fleet.events(fleet.name, "m"))
    assert [reason for reason, _ in events.elements()] == ["ModuleUnloaded"]


@pytest.mark.parametrize("told", [False, True], ids=["before its status says so", "after"])
async def test_module_deleted_while_it_is_loaded_goes_when_it_is_out_again(
    fleet: Fleet, *, told: bool
) -> None:
    node = await fleet.node("a")
    ref = fleet.ref()
    gate = node.kernel.gates[ref] = asyncio.Event()
    await fleet.apply()
    await eventually(partial(_has_begun, node, ref))
    if told:
        await eventually(lambda: fleet.reports(node), lambda reports: "m" in reports)
    await fleet.delete()
    await eventually(lambda: fleet.entries(node), lambda entries: entries == {})
    waits = await fleet.condition("DeletionWaits")
    assert node.name in waits["message"]
    await fleet.reconciled()
    assert await fleet.module() is not None
    gate.set()
    await fleet.gone()
    assert node.kernel.rows == {}
    assert node.kernel.calls[-2:] == [("load", ref), ("unload", ref)]


async def _has_begun(node: SimNode, ref: ModuleRef) -> bool:
    return ("load", ref) in node.kernel.calls


async def test_node_that_loses_the_selected_label_unloads_and_says_so(fleet: Fleet) -> None:
    node, other = await fleet.node("a"), await fleet.node("b")
    await fleet.apply()
    await fleet.loaded()
    await fleet.set_label(node, "fleet", None)
    await fleet.unloaded(node)
    unloaded = ("ModuleUnloaded", f"Module {fleet.ref()} unloaded from the kernel")
    await eventually(lambda: fleet.events("default", node.name), lambda seen: seen[unloaded] == 1)
    await fleet.loaded(other)
    assert other.kernel.unloads(fleet.ref()) == 0
    await fleet.set_label(node, "fleet", fleet.name)
    await fleet.loaded(node)
    assert node.kernel.loads(fleet.ref()) == 2


async def test_restart_of_the_control_plane_writes_nothing(fleet: Fleet) -> None:
    nodes = await fleet.three()
    await fleet.apply()
    await fleet.loaded()
    await fleet.condition("Ready", reason="Ready")
    await fleet.reconciled()
    since = fleet.audit_position()
    await asyncio.to_thread(fleet.control_plane.restart)
    await fleet.reconciled()
    assert fleet.writes(since) == []
    assert all(node.kernel.loads(fleet.ref()) == 1 for node in nodes)


async def test_control_plane_that_was_killed_goes_on_where_it_was(fleet: Fleet) -> None:
    nodes = await fleet.three()
    await fleet.apply()
    await fleet.loaded()
    await asyncio.to_thread(fleet.control_plane.kill)
    await fleet.set_parameters("m", "speed=2")
    await fleet.apply("other")
    await asyncio.to_thread(fleet.control_plane.start)
    await fleet.loaded(name="other")
    for node in nodes:
        await eventually(partial(_parameters, node), lambda found: found == ("speed=2",))
        assert node.kernel.loads(fleet.ref()) == 2


async def test_rebooted_node_loses_the_label_and_gets_it_back_with_the_module(
    fleet: Fleet,
) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await node.go_down()
    await asyncio.to_thread(node.say_status)
    await fleet.labelled(node, present=False)
    await node.start()
    await fleet.loaded()
    assert node.kernel.loads(fleet.ref()) == 2


async def test_restarted_daemon_reloads_nothing(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    before = (await fleet.state(node) or {})["status"]["daemon"]["instance"]
    await node.restart()
    await eventually(
        lambda: fleet.state(node),
        lambda state: state is not None and state["status"]["daemon"]["instance"] != before,
    )
    await fleet.settled()
    await fleet.loaded()
    assert node.kernel.loads(fleet.ref()) == 1
    assert node.kernel.unloads(fleet.ref()) == 0


async def test_deleted_module_names_the_finalizers_of_others_until_they_are_gone(
    fleet: Fleet,
) -> None:
    node = await fleet.node("a")
    await fleet.apply(metadata={"finalizers": ["example.test/theirs"]})
    await fleet.loaded()
    node.kernel.busy.add("m")
    await fleet.delete()
    held = "held by finalizers of others: example.test/theirs"
    assert f"also {held}" in (await fleet.condition("DeletionWaits"))["message"]
    node.kernel.busy.clear()
    told = await eventually(fleet.conditions, lambda c: "DeletionWaits" not in c)
    assert told["Ready"]["message"].endswith(f"; only {held}")
    await fleet.unloaded(node)
    path = f"{KMM}/namespaces/{fleet.name}/modules/m"
    await asyncio.to_thread(fleet.api.merge, path, {"metadata": {"finalizers": None}})
    await fleet.gone()


async def test_busy_module_keeps_its_label_and_its_deletion_names_the_holder(
    fleet: Fleet,
) -> None:
    busy, idle = await fleet.node("a"), await fleet.node("b")
    await fleet.apply()
    await fleet.loaded()
    busy.kernel.busy.add("m")
    await fleet.delete()
    waits = await fleet.condition("DeletionWaits")
    told = await eventually(fleet.conditions, lambda c: "InUse" in c["DeletionWaits"]["message"])
    waits = told["DeletionWaits"]["message"]
    assert busy.name in waits
    assert "m is in use by an open file" in waits
    await fleet.unloaded(idle)
    assert fleet.label() in await fleet.labels(busy)
    busy.kernel.busy.clear()
    await fleet.gone()
    await fleet.unloaded(busy)
