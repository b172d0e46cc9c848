"""Two replicas: both serve daemons, one of them leads."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from support.balancer import Balancer
from support.cluster import Cluster
from support.fleet import Fleet, eventually, running_fleet
from support.kmmcp import KmmCp
from support.replicas import PATIENT, Replicas, new_replicas
from support.serving import DEADLINE, dialled, request, watch
from support.simnode import SimNode

_numbers = count(1)


@pytest.fixture
async def replicas(
    kubernetes: Cluster, control_plane: KmmCp, tmp_path: Path
) -> AsyncIterator[Replicas]:
    """Two in the place of the shared one, behind one address; they must end well."""
    if control_plane.alive:
        await asyncio.to_thread(control_plane.stop)
    replicas = new_replicas(kubernetes, tmp_path)
    async with Balancer(replicas.ports).run() as balancer:
        replicas.balancer = balancer
        try:
            await asyncio.to_thread(replicas.start)
            yield replicas
            assert set(await asyncio.to_thread(replicas.stop)) <= {0}
            assert control_plane.refusals() == set()
        finally:
            replicas.close()


@pytest.fixture
async def pair(replicas: Replicas, tmp_path: Path) -> AsyncIterator[Fleet[Replicas]]:
    async with running_fleet(replicas, f"pair{next(_numbers)}", tmp_path) as started:
        yield started


async def sessions(fleet: Fleet[Replicas], replica: KmmCp) -> set[str]:
    """Return the nodes that a replica says it serves."""
    return await fleet.served(replica.name)


async def test_all_serve_and_one_leads(pair: Fleet[Replicas], replicas: Replicas) -> None:
    nodes = await pair.three()
    await pair.apply()
    await pair.loaded()
    assert [each.is_ready() for each in replicas.all] == [True, True]
    leader = await asyncio.to_thread(replicas.leader)
    assert replicas.lease()["holderIdentity"] == leader.name
    for each in replicas.all:
        assert await eventually(partial(sessions, pair, each))
    follower = replicas.other(leader)
    assert not follower.told("desired state published")
    assert follower.told("update sent")
    told = await pair.events("kmm-operator-system", "kmm-cp")
    assert ("LeaderElection", f"{leader.name} became leader") in told
    assert len(nodes) == 3


async def at_rest(pair: Fleet[Replicas]) -> tuple[list[SimNode], int]:
    """Return nodes that have a Module, and where the audit log is once nothing more is written."""
    nodes = await pair.three()
    await pair.apply()
    await pair.loaded()
    await pair.condition("Ready", reason="Ready")
    await pair.settled()
    await pair.reconciled()
    return nodes, pair.audit_position()


async def test_daemons_move_between_replicas_without_a_reload_or_a_write(
    pair: Fleet[Replicas], replicas: Replicas
) -> None:
    nodes, start = await at_rest(pair)
    names = {node.name for node in nodes}
    for replica in (*replicas.all, *replicas.all):
        replicas.balancer.ports = [replica.port]
        replicas.balancer.cut()
        await eventually(
            partial(sessions, pair, replica),
            lambda found: found == names,
            what=f"all nodes served by {replica.name}",
        )
    await pair.reconciled()
    assert pair.writes(start) == []
    assert [node.kernel.loads(pair.ref()) for node in nodes] == [1, 1, 1]
    await pair.set_parameters("m", "speed=2")
    for node in nodes:
        await has(node.kernel.parameters, "speed=2")


async def test_leader_that_ends_hands_over_and_no_change_is_missed(
    pair: Fleet[Replicas], replicas: Replicas
) -> None:
    nodes = await pair.three()
    await pair.apply()
    await pair.loaded()
    for value in range(3):
        leader = await asyncio.to_thread(replicas.leader)
        await pair.set_parameters("m", f"speed={value}")
        assert await asyncio.to_thread(leader.stop) == 0
        other = replicas.other(leader)
        await eventually(partial(asyncio.to_thread, other.leads), what="a leader", seconds=PATIENT)
        for node in nodes:
            await has(node.kernel.parameters, f"speed={value}")
        await asyncio.to_thread(leader.start)
    await pair.loaded()
    assert [node.kernel.loads(pair.ref()) for node in nodes] == [4, 4, 4]


async def test_rolling_restart_of_all_replicas_writes_nothing(
    pair: Fleet[Replicas], replicas: Replicas
) -> None:
    nodes, start = await at_rest(pair)
    for replica in replicas.all:
        await asyncio.to_thread(replica.restart)
    await asyncio.to_thread(replicas.leader)
    await pair.reconciled()
    assert pair.writes(start) == []
    assert [node.kernel.loads(pair.ref()) for node in nodes] == [1, 1, 1]


async def test_daemon_ahead_of_a_restored_etcd_gets_a_new_state_though_a_follower_serves_it(
    pair: Fleet[Replicas], replicas: Replicas
) -> None:
    node = await pair.node(daemon=False)
    await pair.apply()
    old = await eventually(lambda: pair.state(node))
    uid = old["metadata"]["uid"]
    follower = replicas.other(await asyncio.to_thread(replicas.leader))
    files = await asyncio.to_thread(node.certificate)
    async with dialled(follower.port, files) as channel, watch(channel) as stream:
        await stream.send_message(request(uid=uid, generation=99), end=True)
        async with asyncio.timeout(DEADLINE):
            update = await stream.recv_message()
        assert update is not None
        assert update.uid != uid
        assert [upsert.name for upsert in update.upserts] == ["m"]
        await stream.cancel()
    events = await eventually(lambda: pair.events("default", node.name))
    assert [reason for reason, _ in events] == ["StateRestored"]


async def has(parameters: dict[str, tuple[str, ...]], *wanted: str) -> None:
    """Wait until Module m is in a kernel with these parameters."""
    await eventually(
        lambda: asyncio.sleep(0, parameters.get("m")),
        lambda found: found == wanted,
        what=f"parameters {wanted}",
        seconds=PATIENT,
    )
