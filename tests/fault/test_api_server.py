"""What an API server may do to two replicas at once, under change."""

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from support.cluster import Cluster, running_cluster
from support.faultproxy import GONE, Answer, FaultProxy, Silence, error_event
from support.scene import ALL, Scene, on_stage

CACHED = ("modules", "nodes", "nodemodulesstates", "pods", "namespaces", "configmaps")
SHORT, MINUTE, LONG = 10.0, 60.0, 600.0
PATIENT = 150.0
"""Half-open watches are found by their silence, after 90 s."""
MOST_CALLS = 50.0
"""A second, of both replicas together, while all of them fail and when they are back."""

Fault = Callable[[list[FaultProxy], Cluster], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("kubernetes")) as cluster:
        yield cluster


async def away(ways: list[FaultProxy], cluster: Cluster) -> None:
    """No connection is taken."""
    for way in ways:
        await way.down()


async def busy(ways: list[FaultProxy], cluster: Cluster) -> None:
    """Whoever asks is told to come back in three seconds; watches are ended."""
    await _refuse(ways, Answer(code=429, reason="TooManyRequests", retry_after=3))


async def broken(ways: list[FaultProxy], cluster: Cluster) -> None:
    """Everything is answered by an error of the server's own."""
    await _refuse(ways, Answer(code=500, reason="InternalError"))


async def half_open(ways: list[FaultProxy], cluster: Cluster) -> None:
    """Connections stay, and nothing is said on any of them."""
    for way in ways:
        way.on(Silence(), *ALL)
        for resource in CACHED:
            way.silence(resource)


async def resetting(ways: list[FaultProxy], cluster: Cluster) -> None:
    """Watches are cut all the time."""
    while True:
        for way in ways:
            for resource in CACHED:
                way.cut(resource)
        await asyncio.sleep(0.5)


async def forgetting(ways: list[FaultProxy], cluster: Cluster) -> None:
    """The history is compacted under lists and watches all the time."""
    while True:
        await asyncio.to_thread(_compact, cluster)
        for way in ways:
            way.on(GONE, "watch", times=2)
            for resource in CACHED:
                for stream in way.streams(resource):
                    with suppress(ConnectionError):
                        await stream.send(error_event(410, "Expired"))
        await asyncio.sleep(1.0)


async def _refuse(ways: list[FaultProxy], answer: Answer) -> None:
    for way in ways:
        way.on(answer, *ALL)
        for resource in CACHED:
            way.cut(resource)


def _compact(cluster: Cluster) -> None:
    """Have etcd forget all but the present."""
    connection = http.client.HTTPConnection("127.0.0.1", cluster.plane.layout.ports.etcd, timeout=9)
    try:
        now = _asked(connection, "/v3/kv/range", {"key": "AA==", "limit": "1"})
        revision = now["header"]["revision"]
        _asked(connection, "/v3/kv/compaction", {"revision": revision, "physical": True})
    finally:
        connection.close()


def _asked(connection: http.client.HTTPConnection, path: str, body: object) -> dict[str, Any]:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    return dict(json.loads(connection.getresponse().read()))


@asynccontextmanager
async def troubled(scene: Scene, fault: Fault) -> AsyncIterator[None]:
    """Have the fault on all ways meanwhile."""
    ways = list(scene.ways.values())
    trouble = asyncio.create_task(fault(ways, scene.fleet.control_plane.cluster), name="fault")
    try:
        yield
    finally:
        trouble.cancel()
        await asyncio.gather(trouble, return_exceptions=True)
        for way in ways:
            way.heal()
            if fault is away:
                await way.up()


def cases() -> Iterator[object]:
    """Yield faults with seconds; the long ones for the night."""
    for fault in (busy, forgetting):
        yield pytest.param(fault, SHORT, id=fault.__name__)
    for fault, seconds in (
        (away, LONG),
        (busy, LONG),
        (broken, MINUTE),
        (half_open, MINUTE),
        (resetting, MINUTE),
        (forgetting, MINUTE),
    ):
        yield pytest.param(
            fault,
            seconds,
            id=f"{fault.__name__}-{seconds:.0f}",
            marks=[pytest.mark.nightly, pytest.mark.timeout(1500)],
        )


@pytest.mark.parametrize(("fault", "seconds"), list(cases()))
async def test_trouble_of_the_api_server_unloads_nothing_and_is_caught_up_with(
    kubernetes: Cluster, tmp_path: Path, fault: Fault, seconds: float
) -> None:
    async with on_stage(kubernetes, tmp_path) as scene:
        fleet, nodes = scene.fleet, list(scene.fleet.nodes.values())
        await fleet.apply("leaves")
        await fleet.loaded(name="leaves")
        calls = sum(len(way.calls) for way in scene.ways.values())
        async with troubled(scene, fault):
            await scene.change()
            await nodes[0].restart()
            await asyncio.sleep(seconds / 2)
            await fleet.delete("leaves")
            await asyncio.sleep(seconds / 2)
            if fault in (away, busy, broken, half_open):
                for node in nodes:
                    assert set(node.kernel.rows) == {"m", "leaves"}
                    assert node.kernel.unloads(fleet.ref()) == 0
            made = sum(len(way.calls) for way in scene.ways.values()) - calls
            assert made <= MOST_CALLS * seconds
        await scene.change()
        await scene.arrived(seconds=PATIENT)
        await fleet.unloaded(name="leaves")
        await fleet.gone("leaves")
        for node in nodes:
            assert node.kernel.loads(fleet.ref()) <= 3
