import asyncio

import pytest
from grpclib.const import Status

from kmm_cp.serving.sessions import FLAPPING_SECONDS, Session, Sessions
from kmm_cp.serving.values import Greeting, Journaled, Report
from support.certificates import pod_of
from support.serving import World
from support.virtualclock import VirtualClock


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def sessions(world: World, clock: VirtualClock) -> Sessions:
    return Sessions(clock=clock, observer=world)


def opened(
    sessions: Sessions, instance: str, *, node: str = "a", connection: object = None
) -> Session:
    greeting = Greeting(
        protocol_version=1,
        instance=instance,
        boot_id="b",
        kernel_version="k",
        daemon_version="v",
        journaled=Journaled(),
        report=Report(sequence=0, uid="", observed_generation=0, modules=()),
    )
    return sessions.open(node=node, pod=pod_of(node), greeting=greeting, connection=connection)


def test_newest_session_of_a_node_ends_the_older_one(sessions: Sessions) -> None:
    old, new = opened(sessions, "one"), opened(sessions, "two")
    assert old.ending is not None
    assert old.ending.status is Status.ABORTED
    assert new.ending is None
    sessions.close(old)
    assert sessions.of("a") is new, "the end of the older one takes nothing from the newer"


def test_first_reason_of_an_end_counts(sessions: Sessions) -> None:
    session = opened(sessions, "one")
    session.end(Status.UNAVAILABLE, "first")
    sessions.close(session)
    assert session.ending is not None
    assert session.ending.message == "first"
    assert sessions.nodes() == frozenset()


def test_report_belongs_to_the_session_of_its_node_id_and_connection(sessions: Sessions) -> None:
    connection = object()
    session = opened(sessions, "one", connection=connection)
    opened(sessions, "two", node="b", connection=connection)
    assert sessions.reported_by("a", session.id, connection) is session
    assert sessions.reported_by("a", "other", connection) is None
    assert sessions.reported_by("a", session.id, object()) is None
    assert sessions.reported_by("b", session.id, connection) is None
    assert sessions.reported_by("c", session.id, connection) is None


async def test_three_takeovers_in_five_minutes_are_told(
    sessions: Sessions, world: World, clock: VirtualClock
) -> None:
    for turn in range(4):
        opened(sessions, f"instance-{turn % 2}")
        await clock.advance(100.0)
    assert world.flapped == ["a"]
    await clock.advance(1000.0)
    for turn in range(10):
        opened(sessions, f"slow-{turn}")
        await clock.advance(151.0)
    assert world.flapped == ["a"]


def test_takeovers_by_way_of_another_replica_count_as_well(
    sessions: Sessions, world: World
) -> None:
    """Here a daemon only ever comes back; that it lost the node's status is what tells."""
    for _ in range(3):
        session = opened(sessions, "same")
        session.lose()
        assert session.ending is not None
        assert session.ending.status is Status.ABORTED
        sessions.close(session)
    assert world.flapped == ["a"]
    ended = opened(sessions, "same")
    sessions.close(ended)
    assert world.flapped == ["a"]


async def test_takeovers_that_do_not_count_any_more_are_forgotten(
    sessions: Sessions, clock: VirtualClock
) -> None:
    for node in ("b", "c"):
        for instance in ("one", "two"):
            opened(sessions, instance, node=node)
    assert sessions._takeovers.keys() == {"b", "c"}
    await clock.advance(FLAPPING_SECONDS + 1)
    for instance in ("one", "two"):
        opened(sessions, instance)
    assert sessions._takeovers.keys() == {"a"}


def test_daemon_that_reconnects_takes_nothing_over(sessions: Sessions, world: World) -> None:
    for _ in range(10):
        opened(sessions, "same")
    assert world.flapped == []


def test_every_change_of_the_served_nodes_is_told(sessions: Sessions) -> None:
    told: list[frozenset[str]] = []
    sessions.on_change(lambda: told.append(sessions.nodes()))
    session = opened(sessions, "one")
    sessions.close(session)
    assert told == [{"a"}, frozenset()]


async def test_end_wakes_who_waits_for_it(sessions: Sessions) -> None:
    session = opened(sessions, "one")
    waiting = asyncio.create_task(session.over.wait())
    session.end(Status.UNAVAILABLE, "over")
    async with asyncio.timeout(5):
        await waiting
