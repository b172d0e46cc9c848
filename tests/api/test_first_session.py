"""A daemon without a journal: which ready labels of its node stay until it knows what there is."""

import asyncio
import shutil
from collections import deque

from kmm_common.api.names import Reason
from kmm_sandbox.kubeapi import Object
from support.fleet import Fleet, eventually
from support.simkernel import failure
from support.simnode import SimNode


async def test_label_of_a_module_that_is_there_outlasts_the_first_session(fleet: Fleet) -> None:
    node = await labelled_before(fleet)
    node.kernel.insmod("m", build=image_build(fleet))
    await keeps_its_label_through_a_slow_pull(fleet, node)
    assert node.kernel.loads(fleet.ref()) == 0


async def test_label_of_a_module_that_is_there_outlasts_pulls_that_fail(fleet: Fleet) -> None:
    node = await labelled_before(fleet)
    node.kernel.insmod("m", build=image_build(fleet))
    node.images.failing[fleet.ref()] = deque([failure(Reason.IMAGE_PULL_FAILED)])
    before = fleet.audit_position()
    await node.start()
    said = await eventually(
        lambda: fleet.reports(node), lambda reports: reports.get("m", {}).get("state") == "Failed"
    )
    await fleet.reconciled()
    assert writes_of_the_node(fleet, node, before) == []
    assert said["m"]["inKernel"] is True


async def test_label_outlasts_the_loss_of_the_journal(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await lose_the_journal(node)
    await keeps_its_label_through_a_slow_pull(fleet, node)
    assert node.kernel.loads(fleet.ref()) == 1


async def test_loss_of_the_journal_gives_no_older_module_the_kernel_module(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply("older", selector={"fleet": "another"}, modprobe={"moduleName": "m"})
    await fleet.apply()
    await fleet.loaded()
    await fleet.edit("older", {"selector": {"fleet": fleet.name}})
    await eventually(
        lambda: fleet.reports(node),
        lambda reports: reports.get("older", {}).get("error", {}).get("reason") == Reason.CONFLICT,
    )
    await lose_the_journal(node)
    before = fleet.audit_position()
    pull = await start_with_a_slow_pull(fleet, node)
    await pulling(fleet, node)
    pull.set()
    await fleet.loaded()
    await fleet.reconciled(modules=2)
    assert writes_of_the_node(fleet, node, before) == []
    assert (await fleet.entries(node))["older"]["conflictsWith"] == str(fleet.ref())


async def test_label_of_a_module_that_is_not_there_goes_with_the_first_accepted_report(
    fleet: Fleet,
) -> None:
    node = await labelled_before(fleet)
    pull = await start_with_a_slow_pull(fleet, node)
    await fleet.labelled(node, present=False)
    state = await fleet.state(node) or {}
    assert state["status"]["acceptedGeneration"] == state["metadata"]["generation"]
    pull.set()
    await fleet.loaded()


async def test_label_of_a_module_that_nobody_wants_goes_with_the_first_accepted_report(
    fleet: Fleet,
) -> None:
    node = await fleet.node(labels={fleet.label("old"): ""}, daemon=False)
    node.kernel.insmod("old")
    await node.start()
    await fleet.labelled(node, name="old", present=False)
    assert "old" in node.kernel.rows


async def test_label_goes_once_the_image_shows_another_module_there(fleet: Fleet) -> None:
    node = await labelled_before(fleet)
    node.kernel.insmod("m", build="another")
    pull = await start_with_a_slow_pull(fleet, node)
    await pulling(fleet, node)
    assert fleet.label() in await fleet.labels(node)
    pull.set()
    await fleet.labelled(node, present=False)
    said = (await fleet.reports(node))["m"]
    assert (said["error"]["reason"], "inKernel" in said) == (Reason.LOADED_FROM_ELSEWHERE, False)


async def test_module_that_others_have_loaded_brings_no_label_before_it_is_adopted(
    fleet: Fleet,
) -> None:
    node = await fleet.node(daemon=False)
    await fleet.apply()
    node.kernel.insmod("m", build=image_build(fleet))
    before = fleet.audit_position()
    pull = await start_with_a_slow_pull(fleet, node)
    await pulling(fleet, node)
    await fleet.reconciled()
    assert writes_of_the_node(fleet, node, before) == []
    pull.set()
    await fleet.loaded()


async def test_label_of_an_earlier_boot_goes_before_the_daemon_has_accepted_anything(
    fleet: Fleet,
) -> None:
    """Though kubelet has not named the boot yet, and the kernel has a module of that name."""
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await node.go_down()
    node.kernel.insmod("m", build="of the kernel's own tree")
    pull = await start_with_a_slow_pull(fleet, node)
    await fleet.labelled(node, present=False)
    pull.set()


async def keeps_its_label_through_a_slow_pull(fleet: Fleet, node: SimNode) -> None:
    """Start the daemon, and have it take over what is in the kernel, with no write of the Node."""
    before = fleet.audit_position()
    pull = await start_with_a_slow_pull(fleet, node)
    said = await pulling(fleet, node)
    pull.set()
    await fleet.loaded()
    await fleet.reconciled()
    assert writes_of_the_node(fleet, node, before) == []
    assert said["inKernel"] is True


async def labelled_before(fleet: Fleet) -> SimNode:
    """Return a node that another manager has labelled, with a Module that it is to have."""
    node = await fleet.node(labels={fleet.label(): ""}, daemon=False, patient=True)
    await fleet.apply()
    await eventually(lambda: fleet.entries(node), lambda entries: "m" in entries)
    return node


async def lose_the_journal(node: SimNode) -> None:
    """End the daemon, and take away what it has written down of this boot."""
    await node.stop()
    shutil.rmtree(node.directory / node.kernel.boot_id)


def image_build(fleet: Fleet) -> str:
    """Return the build of the module in the fleet's image."""
    return fleet.push()[-8:]


async def start_with_a_slow_pull(fleet: Fleet, node: SimNode) -> asyncio.Event:
    """Start the daemon; its pull ends once the event is set."""
    gate = node.images.gates[fleet.ref()] = asyncio.Event()
    await node.start()
    return gate


async def pulling(fleet: Fleet, node: SimNode) -> Object:
    """Wait until a pull that lasts is persisted; return what is said of its Module."""
    reports = await eventually(
        lambda: fleet.reports(node), lambda reports: reports.get("m", {}).get("state") == "Pulling"
    )
    return reports["m"]


def writes_of_the_node(fleet: Fleet, node: SimNode, since: int) -> list[str]:
    """Return kmm-cp's writes of a Node, and of events about it: a label that went for a moment."""
    made = [write for write in fleet.writes(since) if write.resource in ("nodes", "events")]
    return [write.verb for write in made if write.name.split(".")[0] == node.name]
