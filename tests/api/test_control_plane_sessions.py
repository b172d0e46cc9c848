"""What silence means, and what a daemon's journal says to a control plane that knows less."""

import asyncio

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from support.fleet import Fleet, eventually
from support.serving import DEADLINE, dialled, request, watch


async def test_silent_daemon_and_silent_kubelet_unload_nothing(fleet: Fleet) -> None:
    silent, other = await fleet.node("a"), await fleet.node("b")
    await fleet.apply()
    await fleet.loaded()
    await silent.silence()
    await asyncio.to_thread(silent.say_status, ready=False)
    await eventually(fleet.served, lambda served: silent.name not in served)
    await fleet.set_parameters("m", "speed=2")
    await eventually(
        lambda: asyncio.sleep(0, other.kernel.parameters.get("m")),
        lambda found: found == ("speed=2",),
    )
    await fleet.reconciled()
    assert fleet.label() in await fleet.labels(silent)
    assert "m" in await fleet.entries(silent)
    assert silent.kernel.parameters["m"] == ()
    assert silent.kernel.unloads(fleet.ref()) == 0


async def test_daemon_that_was_silent_catches_up(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await node.silence()
    await fleet.set_parameters("m", "speed=2")
    await fleet.apply("other")
    await eventually(lambda: fleet.entries(node), lambda entries: "other" in entries)
    await node.restart()
    await fleet.loaded(name="other")
    await fleet.loaded()
    assert node.kernel.parameters["m"] == ("speed=2",)


async def test_daemon_that_is_ahead_of_a_restored_etcd_gets_a_new_state(fleet: Fleet) -> None:
    node = await fleet.node(daemon=False)
    await fleet.apply()
    old = await eventually(lambda: fleet.state(node))
    uid = old["metadata"]["uid"]
    files = await asyncio.to_thread(node.certificate)
    async with dialled(fleet.control_plane.port, files) as channel, watch(channel) as stream:
        await stream.send_message(request(uid=uid, generation=99), end=True)
        async with asyncio.timeout(DEADLINE):
            update = await stream.recv_message()
        assert update is not None
        assert update.uid != uid
        assert [upsert.name for upsert in update.upserts] == ["m"]
        await stream.cancel()
    new = await fleet.state(node) or {}
    assert new["metadata"]["uid"] == update.uid
    events = await eventually(lambda: fleet.events("default", node.name))
    assert [reason for reason, _ in events] == ["StateRestored"]


async def test_daemon_started_without_any_module_gets_an_empty_state(fleet: Fleet) -> None:
    node = await fleet.node()
    state = await eventually(lambda: fleet.state(node))
    assert not state["spec"].get("modules")
    await fleet.settled()
    daemon = (await fleet.state(node) or {})["status"]["daemon"]
    assert (daemon["connected"], daemon["podName"]) == (True, node.pod)


async def test_newest_daemon_of_a_node_has_its_session(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    files = await asyncio.to_thread(node.certificate)
    with pytest.raises(GRPCError) as caught:
        async with dialled(fleet.control_plane.port, files) as channel, watch(channel) as stream:
            await stream.send_message(request(instance="copied"), end=True)
            async with asyncio.timeout(DEADLINE):
                while await stream.recv_message() is not None:
                    pass
                await stream.recv_trailing_metadata()
    assert caught.value.status is Status.ABORTED
    opened = fleet.control_plane.told("session opened", node=node.name)
    assert [line["instance"] == "copied" for line in opened] == [False, True, False]
    await fleet.set_parameters("m", "speed=2")
    await eventually(
        lambda: asyncio.sleep(0, node.kernel.parameters.get("m")),
        lambda found: found == ("speed=2",),
    )
    assert (await fleet.state(node) or {})["status"]["daemon"]["instance"] != "copied"
