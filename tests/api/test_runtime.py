"""kmm-cp as a process behind a proxy that breaks its API server."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from kmm_sandbox.programs import GROUPS, USER
from support.faultproxy import (
    Answer,
    Call,
    FaultProxy,
    Hold,
    Silence,
    Stream,
    error_event,
    proxied,
)
from support.fleet import Fleet, eventually
from support.kmmcp import KmmCp
from support.serving import DEADLINE, dialled, request, watch
from support.simnode import SimNode

PATIENT = 90.0
CACHED = ("modules", "nodes", "nodemodulesstates", "pods", "namespaces", "configmaps")
STATES = "nodemodulesstates"
OUTAGE_SECONDS = 20.0


@pytest.fixture(autouse=True)
async def proxy(control_plane: KmmCp, tmp_path: Path) -> AsyncIterator[FaultProxy]:
    """Send the shared control plane's requests through a proxy while a test of this file runs."""
    if control_plane.alive:
        await asyncio.to_thread(control_plane.stop)
    direct = control_plane.settings["kubeconfig"]
    async with proxied(control_plane.cluster, tmp_path, user=USER, groups=GROUPS) as (
        proxy,
        kubeconfig,
    ):
        control_plane.settings["kubeconfig"] = str(kubeconfig)
        try:
            yield proxy
        finally:
            if control_plane.alive:
                await asyncio.to_thread(control_plane.stop)
            control_plane.settings["kubeconfig"] = direct


async def reached(hold: Hold) -> None:
    """Wait until a request is held back."""
    async with asyncio.timeout(PATIENT):
        await hold.reached.wait()


async def has_parameters(node: SimNode, *wanted: str) -> None:
    """Wait until Module m is in the kernel with these parameters."""
    await eventually(
        lambda: asyncio.sleep(0, node.kernel.parameters.get("m")),
        lambda found: found == wanted,
        what=f"{wanted} on {node.name}",
        seconds=PATIENT,
    )


async def _streams(proxy: FaultProxy, resource: str) -> list[Stream]:
    return proxy.streams(resource)


async def _watches(proxy: FaultProxy, resource: str) -> list[Call]:
    return proxy.seen("watch", resource)


# The gate.


@pytest.mark.parametrize("resource", CACHED)
async def test_nothing_is_written_or_pushed_before_every_cache_is_complete(
    fleet: Fleet, proxy: FaultProxy, resource: str
) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await asyncio.to_thread(fleet.control_plane.stop)
    await fleet.set_parameters("m", "speed=2")
    hold = Hold()
    proxy.on(hold, "list", resource=resource, times=1)
    proxy.calls.clear()
    await asyncio.to_thread(fleet.control_plane.launch)
    await reached(hold)
    for other in set(CACHED) - {resource}:
        await eventually(partial(_streams, proxy, other), what=other, seconds=PATIENT)
    assert await refusal(fleet, node) is Status.UNAVAILABLE
    assert not await asyncio.to_thread(fleet.control_plane.is_ready)
    # The list of served nodes, empty as it is then, is the replica's own.
    assert {call.resource for call in proxy.written()} <= {"configmaps"}
    assert node.kernel.parameters["m"] == ()
    hold.release.set()
    await has_parameters(node, "speed=2")


async def refusal(fleet: Fleet, node: SimNode) -> Status:
    """Return what a daemon with a good certificate is refused with."""
    files = await asyncio.to_thread(node.certificate)
    with pytest.raises(GRPCError) as caught:
        async with dialled(fleet.control_plane.port, files) as channel, watch(channel) as stream:
            await stream.send_message(request(), end=True)
            async with asyncio.timeout(DEADLINE):
                await stream.recv_message()
                await stream.recv_trailing_metadata()
    return caught.value.status


# The end.


async def test_reconcile_in_progress_is_completed_at_sigterm(
    fleet: Fleet, proxy: FaultProxy
) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    hold = Hold()
    proxy.on(hold, "update", resource=STATES, times=1)
    await fleet.set_parameters("m", "speed=2")
    await reached(hold)
    cut_off = len(fleet.control_plane.told("reconciles cut off"))
    stopping = len(fleet.control_plane.told("control plane stops"))
    fleet.control_plane.ask_to_stop()
    await eventually(
        lambda: asyncio.to_thread(fleet.control_plane.told, "control plane stops"),
        lambda told: len(told) > stopping,
        what="control plane stops",
        seconds=PATIENT,
    )
    hold.release.set()
    assert await asyncio.to_thread(fleet.control_plane.stop) == 0
    (entry,) = (await fleet.entries(node)).values()
    assert entry["modprobe"]["parameters"] == ["speed=2"]
    assert len(fleet.control_plane.told("reconciles cut off")) == cut_off
    await asyncio.to_thread(fleet.control_plane.start)


async def test_reconcile_that_hangs_does_not_hold_sigterm_up(
    fleet: Fleet, proxy: FaultProxy
) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    proxy.on(Silence(), "update", resource=STATES)
    before = len(proxy.seen("update", STATES))
    await fleet.set_parameters("m", "speed=2")
    await eventually(
        lambda: asyncio.sleep(0, len(proxy.seen("update", STATES)) > before), what="an update"
    )
    assert await asyncio.to_thread(fleet.control_plane.stop) == 0
    proxy.heal()
    await asyncio.to_thread(fleet.control_plane.start)
    await has_parameters(node, "speed=2")


# The loop.


async def test_crash_of_a_reconcile_stops_neither_the_loop_nor_its_key(
    fleet: Fleet, proxy: FaultProxy
) -> None:
    nodes = await fleet.three()
    await fleet.apply()
    await fleet.loaded()
    crashes = len(fleet.control_plane.told("reconcile crashed", controller="node"))
    # An answer that is no object: nothing in the product expects it.
    proxy.on(Answer(code=200), "update", resource=STATES, times=2)
    await fleet.set_parameters("m", "speed=2")
    for node in nodes:
        await has_parameters(node, "speed=2")
    told = fleet.control_plane.told("reconcile crashed", controller="node")
    assert len(told) == crashes + 2


async def test_node_has_one_worker_and_the_newest_wish_next(
    fleet: Fleet, proxy: FaultProxy
) -> None:
    held, other = await fleet.node("a"), await fleet.node("b")
    await fleet.apply()
    await fleet.loaded()

    def updates(node: SimNode) -> int:
        return sum(call.name == node.name for call in proxy.seen("update", STATES))

    before = updates(held)
    hold = Hold()
    proxy.on(hold, "update", resource=STATES, name=held.name, times=1)
    for value in "234":
        await fleet.set_parameters("m", f"speed={value}")
        await has_parameters(other, f"speed={value}")
    assert updates(held) == before + 1
    hold.release.set()
    await has_parameters(held, "speed=4")
    assert updates(held) == before + 2


async def test_write_that_the_server_has_no_time_for_is_tried_again_once(
    fleet: Fleet, proxy: FaultProxy
) -> None:
    """How long it waits is tested on virtual time; another change of the node goes ahead of it."""
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    before = len(proxy.seen("update", STATES))
    busy = Answer(code=429, reason="TooManyRequests", retry_after=3)
    proxy.on(busy, "update", resource=STATES, times=1)
    await fleet.set_parameters("m", "speed=2")
    await has_parameters(node, "speed=2")
    assert len(proxy.seen("update", STATES)) == before + 2


# Faults of the API server.


async def test_lost_history_of_every_cache_costs_one_list_each_and_no_write(
    fleet: Fleet, proxy: FaultProxy
) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await fleet.condition("Ready", reason="Ready")
    await fleet.reconciled()
    proxy.calls.clear()
    for resource in CACHED:
        (stream,) = proxy.streams(resource)
        await stream.send(error_event(410, "Expired"))
    for resource in CACHED:
        await eventually(
            partial(_watches, proxy, resource),
            what=resource,
            seconds=PATIENT,
        )
    await fleet.reconciled()
    assert proxy.written() == []
    await fleet.set_parameters("m", "speed=2")
    await has_parameters(node, "speed=2")
    assert {resource: len(proxy.seen("list", resource)) for resource in CACHED} == dict.fromkeys(
        CACHED, 1
    )


async def test_api_server_that_is_away_unloads_nothing_and_is_caught_up_with(
    fleet: Fleet, proxy: FaultProxy
) -> None:
    nodes = await fleet.three()
    await fleet.apply()
    await fleet.apply("leaves")
    await fleet.loaded()
    await fleet.loaded(name="leaves")
    await proxy.down()
    await fleet.set_parameters("m", "speed=2")
    await fleet.delete("leaves")
    await nodes[0].restart()
    await asyncio.sleep(OUTAGE_SECONDS)
    for node in nodes:
        assert set(node.kernel.rows) == {"m", "leaves"}
        assert node.kernel.unloads(fleet.ref()) == 0
    await proxy.up()
    for node in nodes:
        await has_parameters(node, "speed=2")
    await fleet.gone("leaves")
    await fleet.unloaded(name="leaves")
    await fleet.loaded()


# A Module that cannot be read.


def spoiled(namespace: str) -> Any:
    """Return a rewrite that makes Module m of a namespace undecodable."""

    def rewrite(content: dict[str, Any]) -> dict[str, Any]:
        metadata = content["metadata"]
        if (metadata.get("namespace"), metadata["name"]) != (namespace, "m"):
            return content
        return {**content, "spec": {**content["spec"], "moduleLoader": {"container": 5}}}

    return rewrite


async def unread(fleet: Fleet, proxy: FaultProxy) -> SimNode:
    """Load Module m on a node; make it unreadable for a control plane that knows nothing yet."""
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await asyncio.to_thread(fleet.control_plane.stop)
    proxy.rewrite_object = spoiled(fleet.name)
    await asyncio.to_thread(fleet.control_plane.start)
    return node


async def test_module_that_cannot_be_read_stays_where_it_is_and_says_so(
    fleet: Fleet, proxy: FaultProxy
) -> None:
    node = await unread(fleet, proxy)
    fresh = await fleet.node("fresh")
    await fleet.apply("other")
    await fleet.loaded(name="other")
    await fleet.reconciled()
    assert set(await fleet.entries(node)) == {"m", "other"}
    assert set(await fleet.entries(fresh)) == {"other"}
    assert fleet.label() in await fleet.labels(node)
    assert node.kernel.unloads(fleet.ref()) == 0
    ((reason, message),) = await eventually(lambda: fleet.events(fleet.name, "m"))
    assert reason == "ModuleUnreadable"
    assert "spec.moduleLoader.container" in message
    proxy.heal()
    await fleet.set_parameters("m", "speed=2")
    await has_parameters(node, "speed=2")
    await fleet.loaded(fresh)


async def test_module_that_went_while_it_could_not_be_read_is_unloaded(
    fleet: Fleet, proxy: FaultProxy
) -> None:
    node = await unread(fleet, proxy)
    await fleet.delete()
    path = f"/apis/kmm.sigs.x-k8s.io/v1beta1/namespaces/{fleet.name}/modules/m"
    await fleet.reconciled_nodes()
    assert node.kernel.unloads(fleet.ref()) == 0
    await asyncio.to_thread(fleet.api.merge, path, {"metadata": {"finalizers": []}})
    await fleet.unloaded()
