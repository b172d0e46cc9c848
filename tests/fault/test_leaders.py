"""Two replicas, and what may happen to the one that leads."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from kmm_cp.settings import LeaseSettings
from support.cluster import Cluster, running_cluster
from support.faultproxy import Hold, Silence
from support.fleet import eventually
from support.kmmcp import KmmCp
from support.replicas import LEASE, PATIENT, frozen
from support.scene import ALL, Scene, on_stage
from support.verdict import TALLY

STATES = "nodemodulesstates"
LONGER_THAN_THE_LEASE = 8.0
PROGRAMS = Path(__file__).resolve().parents[1] / "support/programs"
FIRST_SEED = int(os.environ.get("KMM_LEADER_SEED", "1"))
ROUNDS = int(os.environ.get("KMM_LEADER_ROUNDS", "1"))
NIGHTLY_SEEDS = range(100, 125)
STEPS = 5
DEFAULTS = LeaseSettings().model_dump()


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("kubernetes")) as cluster:
        yield cluster


@pytest.fixture
async def scene(kubernetes: Cluster, tmp_path: Path) -> AsyncIterator[Scene]:
    async with on_stage(kubernetes, tmp_path) as scene:
        yield scene


async def test_leader_that_is_killed_is_followed_and_no_change_is_lost(scene: Scene) -> None:
    leader = await scene.leader()
    await scene.change()
    await asyncio.to_thread(leader.kill)
    await scene.change()
    await scene.leads(scene.replicas.other(leader))
    await scene.arrived()
    await asyncio.to_thread(leader.start)
    assert not leader.leads()


async def test_leader_that_was_frozen_wakes_to_follow(scene: Scene) -> None:
    leader = await scene.leader()
    other = scene.replicas.other(leader)
    await scene.serves(other)
    await scene.fleet.apply("leaves")
    await scene.fleet.loaded(name="leaves")
    # It wakes with work on its mind: what it has not seen, and what it has not done.
    hold = Hold()
    scene.way(leader).on(hold, "update", resource=STATES, times=1)
    await scene.change()
    async with asyncio.timeout(PATIENT):
        await hold.reached.wait()
    with frozen(leader):
        await scene.fleet.delete("leaves")
        await eventually(
            lambda: asyncio.to_thread(other.leads), what="the other leads", seconds=PATIENT
        )
        await scene.fleet.unloaded(name="leaves")
        await scene.arrived()
        # What was under way when it froze arrives now, long after its time.
        hold.release.set()
        await asyncio.sleep(1.0)
    await eventually(
        lambda: asyncio.to_thread(leader.told, "leading no more"), what="it knows", seconds=PATIENT
    )
    await scene.leads(other)
    await scene.fleet.reconciled()
    for node in scene.fleet.nodes.values():
        assert scene.fleet.label("leaves") not in await scene.fleet.labels(node)
        assert set(await scene.fleet.entries(node)) == {"m"}


async def test_leader_that_is_cut_off_stops_before_the_other_begins(scene: Scene) -> None:
    leader = await scene.leader()
    other = scene.replicas.other(leader)
    await scene.way(leader).down()
    await scene.change()
    await scene.leads(other)
    await scene.serves(other)
    await scene.arrived()
    await scene.way(leader).up()
    await scene.serves(leader)
    await scene.change()
    await scene.arrived()
    await scene.leads(other)


@pytest.mark.nightly
async def test_leader_whose_connections_are_half_open_stops_before_the_other_begins(
    scene: Scene,
) -> None:
    leader = await scene.leader()
    other = scene.replicas.other(leader)
    await scene.serves(other)
    way = scene.way(leader)
    way.on(Silence(), *ALL)
    for stream in list(way._streams):
        stream.silent = True
    await scene.change()
    await scene.leads(other)
    await scene.arrived()
    way.heal()


async def test_lease_that_is_deleted_locks_nobody_out_and_changes_no_leader(scene: Scene) -> None:
    leader = await scene.leader()
    for _ in range(4):
        await asyncio.to_thread(scene.fleet.api.delete, LEASE)
        await scene.change()
        await scene.arrived()
        await eventually(lambda: scene.fleet.find(LEASE), what="the Lease", seconds=PATIENT)
    assert await scene.leader() is leader
    assert len(scene.replicas.told("leading")) == 1
    await asyncio.to_thread(leader.kill)
    await asyncio.to_thread(scene.fleet.api.delete, LEASE)
    await scene.leads(scene.replicas.other(leader))
    await scene.arrived()
    await asyncio.to_thread(leader.start)


@pytest.mark.nightly
async def test_leader_that_was_frozen_for_half_a_minute_wakes_to_follow(
    kubernetes: Cluster, tmp_path: Path
) -> None:
    """With the times of the defaults."""
    async with on_stage(kubernetes, tmp_path, lease=DEFAULTS) as scene:
        leader = await scene.leader()
        other = scene.replicas.other(leader)
        await scene.serves(other)
        with frozen(leader):
            await scene.change()
            await asyncio.sleep(30)
            await scene.arrived()
        await eventually(
            lambda: asyncio.to_thread(leader.told, "leading no more"),
            what="it knows",
            seconds=PATIENT,
        )
        await scene.leads(other)


async def test_stepped_clocks_change_no_leader(scene: Scene) -> None:
    for each in scene.replicas.all:
        offset = each.directory / "offset"
        offset.write_text("0")
        each.program = (str(PROGRAMS / "steppedclock.py"), str(offset))
        await asyncio.to_thread(each.restart)
    leader = await scene.leader()
    terms = len(scene.replicas.told("leading"))
    for step in (300, -300, 86400, -86400):
        for each in (leader, scene.replicas.other(leader)):
            (each.directory / "offset").write_text(str(step))
            await asyncio.sleep(1.2)
        await scene.change()
        await scene.arrived()
    assert await scene.leader() is leader
    assert len(scene.replicas.told("leading")) == terms
    # By a clock that is a day behind its own, another takes over all the same.
    await asyncio.to_thread(leader.kill)
    await scene.leads(scene.replicas.other(leader))
    await asyncio.to_thread(leader.start)


async def test_two_leaders_do_no_harm(scene: Scene) -> None:
    nodes = list(scene.fleet.nodes.values())
    second = scene.replicas.other(await scene.leader())
    second.program = (str(PROGRAMS / "usurper.py"),)
    await asyncio.to_thread(second.restart)
    await eventually(
        lambda: asyncio.to_thread(scene.replicas.leading),
        lambda leading: len(leading) == 2,
        what="two leaders",
    )
    for name in ("x", "y", "z"):
        await scene.change()
        await scene.fleet.apply(name)
        await nodes[0].restart()
        await scene.change()
        await scene.fleet.loaded(name=name)
        await nodes[1].reboot()
        await scene.fleet.delete(name)
        await scene.fleet.unloaded(name=name)
    await scene.arrived()
    published = {line["replica_of"] for line in scene.replicas.facts() if "generation" in line}
    assert len(published) == 2
    await asyncio.to_thread(second.stop)
    second.program = ("-m", "kmm_cp.cli")
    await asyncio.to_thread(second.start)


async def test_follower_that_was_told_nothing_puts_nothing_back_when_it_leads(
    scene: Scene,
) -> None:
    nodes = list(scene.fleet.nodes.values())
    first = await scene.leader()
    second = scene.replicas.other(first)
    await scene.serves(second)
    # Its other watches go on: what it would write has the newest version.
    scene.way(second).silence("modules")
    scene.way(second).silence("nodes")
    await scene.change()
    await scene.fleet.apply("later")
    await scene.fleet.loaded(name="later")
    await scene.arrived()
    loads = [node.kernel.loads(scene.fleet.ref()) for node in nodes]
    await asyncio.to_thread(first.kill)
    await scene.leads(second)
    await scene.fleet.reconciled()
    for node in nodes:
        assert set(await scene.fleet.entries(node)) == {"m", "later"}
        assert scene.fleet.label("later") in await scene.fleet.labels(node)
    assert [node.kernel.loads(scene.fleet.ref()) for node in nodes] == loads
    await asyncio.to_thread(first.start)
    scene.replicas.balancer.ports = scene.replicas.ports


# Who ends without a word.


@pytest.mark.nightly
async def test_replica_that_ended_for_good_leaves_no_node_connected(scene: Scene) -> None:
    gone, left = scene.replicas.all
    await scene.serves(gone)
    node = next(iter(scene.fleet.nodes.values()))
    await asyncio.to_thread(gone.kill)
    scene.replicas.balancer.ports = [left.port]
    await node.stop()
    await eventually(
        lambda: scene.fleet.served(gone.name), lambda found: not found, what="no list", seconds=120
    )
    await eventually(
        lambda: scene.fleet.state(node),
        lambda state: state is not None and not state["status"]["daemon"]["connected"],
        what="not connected",
        seconds=120,
    )
    others = [each for each in scene.fleet.nodes.values() if each is not node]
    await scene.change()
    await scene.arrived(*others)
    for each in others:
        assert (await scene.fleet.state(each) or {})["status"]["daemon"]["connected"]
    await node.start()
    await asyncio.to_thread(gone.start)


@pytest.mark.nightly
async def test_replica_that_was_taken_for_dead_lists_its_nodes_again(scene: Scene) -> None:
    leader = await scene.leader()
    follower = scene.replicas.other(leader)
    await scene.serves(follower)
    with frozen(follower):
        await eventually(
            lambda: scene.fleet.served(follower.name),
            lambda found: not found,
            what="no list",
            seconds=120,
        )
    names = {node.name for node in scene.fleet.nodes.values()}
    await eventually(
        lambda: scene.fleet.served(), lambda found: found == names, what="a list", seconds=PATIENT
    )


# Any of it, at any time.

Step = Callable[[Scene, KmmCp, random.Random], Awaitable[None]]


async def kill(scene: Scene, victim: KmmCp, chance: random.Random) -> None:
    await asyncio.to_thread(victim.kill)
    await asyncio.sleep(chance.uniform(0, LONGER_THAN_THE_LEASE))
    await asyncio.to_thread(victim.start)


async def stop(scene: Scene, victim: KmmCp, chance: random.Random) -> None:
    await asyncio.to_thread(victim.restart)


async def freeze(scene: Scene, victim: KmmCp, chance: random.Random) -> None:
    with frozen(victim):
        await asyncio.sleep(chance.uniform(0, LONGER_THAN_THE_LEASE))


async def cut_off(scene: Scene, victim: KmmCp, chance: random.Random) -> None:
    await scene.way(victim).down()
    await asyncio.sleep(chance.uniform(0, LONGER_THAN_THE_LEASE))
    await scene.way(victim).up()


async def delete_the_lease(scene: Scene, victim: KmmCp, chance: random.Random) -> None:
    await asyncio.to_thread(scene.fleet.api.delete, LEASE)


async def move_daemons(scene: Scene, victim: KmmCp, chance: random.Random) -> None:
    scene.replicas.balancer.cut()


FAULTS: list[Step] = [kill, kill, stop, freeze, freeze, cut_off, delete_the_lease, move_daemons]


async def keep_changing(scene: Scene, chance: random.Random, told: list[str]) -> None:
    """Change Modules and nodes until cancelled."""
    there = False
    while True:
        match chance.randrange(5):
            case 0 if not there:
                await scene.fleet.apply("comes")
                there = True
            case 1 if there:
                await scene.fleet.delete("comes")
                await scene.fleet.gone("comes")
                there = False
            case 2:
                node = chance.choice(list(scene.fleet.nodes.values()))
                told.append(f"restart {node.name}")
                await node.restart()
            case _:
                await scene.change()
        await asyncio.sleep(chance.uniform(0, 0.5))


@pytest.mark.parametrize(
    "seed",
    [
        *range(FIRST_SEED, FIRST_SEED + ROUNDS),
        *(pytest.param(seed, marks=pytest.mark.nightly) for seed in NIGHTLY_SEEDS),
    ],
)
async def test_any_faults_of_replicas_under_change_end_well(scene: Scene, seed: int) -> None:
    TALLY.seeded("leaders", [seed])
    chance = random.Random(seed)  # noqa: S311 a seed, no secret
    told: list[str] = []
    changing = asyncio.create_task(keep_changing(scene, chance, told), name="changes")
    try:
        for _ in range(STEPS):
            fault, victim = chance.choice(FAULTS), chance.choice(scene.replicas.all)
            told.append(f"{fault.__name__} {victim.name}")
            await fault(scene, victim, chance)
            assert not changing.done(), f"seed {seed}: {told}: {changing.exception()}"
    finally:
        changing.cancel()
        await asyncio.gather(changing, return_exceptions=True)
    for node in scene.fleet.nodes.values():
        # It may have been cancelled in the middle of a restart.
        if not node.running:
            await node.start()
    await scene.leader()
