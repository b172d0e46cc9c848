"""etcd restored from a backup under two replicas of the control plane and their daemons."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from support.balancer import Balancer
from support.cluster import Cluster, running_cluster
from support.etcd import back_up, restore
from support.fleet import Fleet, eventually, running_fleet
from support.replicas import Replicas, new_replicas
from support.simnode import SimNode


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of the test's own: nobody else's objects are to go back in time."""
    with running_cluster(tmp_path / "kubernetes") as cluster:
        yield cluster


@pytest.fixture
async def fleet(kubernetes: Cluster, tmp_path: Path) -> AsyncIterator[Fleet[Replicas]]:
    # An API server that has just started refuses everybody for a moment: refusals are no failure.
    replicas = new_replicas(kubernetes, tmp_path / "kmm-cp")
    async with Balancer(replicas.ports).run() as balancer:
        replicas.balancer = balancer
        try:
            await asyncio.to_thread(replicas.start)
            async with running_fleet(replicas, "f", tmp_path) as started:
                yield started
            assert set(await asyncio.to_thread(replicas.stop)) == {0}
        finally:
            replicas.close()


async def test_nodes_follow_a_restored_etcd_though_they_have_carried_out_newer_states(
    fleet: Fleet[Replicas], tmp_path: Path
) -> None:
    plane = fleet.control_plane.cluster.plane
    # In turn, so that both replicas serve: the one that leads, and the one that does not.
    nodes = [await fleet.node(name) for name in "abcd"]
    await fleet.apply()
    await fleet.loaded()
    await fleet.settled()
    back_up(plane, tmp_path / "backup")
    before = {node.name: await _uid(fleet, node) for node in nodes}
    await fleet.set_parameters("m", "speed=2")
    await fleet.apply("later")
    await fleet.loaded(name="later")
    for node in nodes:
        await eventually(partial(_parameters, node), lambda given: given == ("speed=2",))
    await fleet.settled()

    restore(plane, tmp_path / "backup")

    for node in nodes:
        await eventually(partial(_parameters, node), lambda given: given == ())
        await eventually(partial(_rows, node), lambda rows: rows == {"m"})
        assert await _uid(fleet, node) != before[node.name]
        told = await eventually(partial(fleet.events, "default", node.name))
        assert "StateRestored" in {reason for reason, _ in told}
    await fleet.loaded()
    await fleet.condition("Ready", reason="Ready")
    serving = {line["replica_of"] for line in fleet.control_plane.facts() if "session" in line}
    assert len(serving) == 2


async def _uid(fleet: Fleet[Replicas], node: SimNode) -> str:
    state = await eventually(lambda: fleet.state(node))
    return str(state["metadata"]["uid"])


async def _parameters(node: SimNode) -> tuple[str, ...]:
    return node.kernel.parameters.get("m", ())


async def _rows(node: SimNode) -> set[str]:
    return set(node.kernel.rows)
