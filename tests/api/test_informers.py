"""Informers of the real API server's ConfigMaps, behind a proxy that breaks it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from kmm_common.backoff import Backoff
from kmm_common.clock import SystemClock
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.informer import Change, Informer, Pace
from kmm_cp.kube.resources import CONFIG_MAPS
from kmm_sandbox.kubeapi import KubeApi
from support.cluster import Cluster
from support.faultproxy import GONE, Answer, FaultProxy, Hold, Silence, error_event, proxied
from support.fleet import eventually

NAME = "configmaps"
LABELS = {"kmm-test": "informers"}
SELECTOR = "kmm-test=informers"
QUICK = Pace(page=3, inactivity=2.0, short=0.1, backoff=Backoff(0.05, 0.2, jitter=0.5))
PATIENT = 90.0

_numbers = count(1)


def decode(content: dict[str, Any]) -> str:
    return content["data"]["value"]


@dataclass(slots=True, kw_only=True)
class Scene:
    """A namespace of ConfigMaps, and an informer of them behind a proxy."""

    api: KubeApi
    namespace: str
    proxy: FaultProxy
    client: KubeClient
    changes: list[Change[str]] = field(default_factory=list)
    """All changes that the informer told of."""

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps"

    def key(self, name: str) -> str:
        return f"{self.namespace}/{name}"

    def put(self, name: str, value: str = "1") -> None:
        """Create a ConfigMap."""
        metadata = {"name": name, "labels": LABELS}
        self.api.create(self.path, {"metadata": metadata, "data": {"value": value}})

    def edit(self, name: str, value: str) -> None:
        self.api.merge(f"{self.path}/{name}", {"data": {"value": value}})

    def delete(self, name: str) -> None:
        self.api.delete(f"{self.path}/{name}")

    def truth(self) -> dict[str, str]:
        """Return what the server has."""
        items = self.api.items(f"{self.path}?labelSelector={SELECTOR}")
        return {self.key(item["metadata"]["name"]): decode(item) for item in items}

    def told(self, name: str) -> list[tuple[str | None, str | None]]:
        """Return what the informer told of a ConfigMap: before and after."""
        return [(each.old, each.new) for each in self.changes if each.key == self.key(name)]

    def lists(self) -> int:
        """Return how often a collection was read from its beginning."""
        return sum("continue" not in call.query for call in self.proxy.seen("list", NAME))

    @asynccontextmanager
    async def informing(self, pace: Pace = QUICK) -> AsyncIterator[Informer[str]]:
        """Run an informer."""
        informer = Informer(
            self.client,
            CONFIG_MAPS,
            decode,
            clock=SystemClock(),
            namespace=self.namespace,
            label_selector=SELECTOR,
            pace=pace,
        )
        informer.add_handler(self.changes.append)
        running = asyncio.create_task(informer.run(), name="informer")
        try:
            yield informer
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def watched(self, informer: Informer[str]) -> None:
        """Wait until the cache is complete and a watch goes on from it."""
        await eventually(
            lambda: asyncio.sleep(0, informer.synced.is_set() and self.proxy.streams(NAME)),
            what="a watch",
            seconds=PATIENT,
        )

    async def equal(self, informer: Informer[str]) -> None:
        """Wait until the cache is what the server has, after one more change of it."""
        fence = f"fence-{next(_numbers)}"
        await asyncio.to_thread(self.put, fence, "1")
        truth = await asyncio.to_thread(self.truth)
        await eventually(
            lambda: asyncio.sleep(0, dict(informer.store)),
            lambda cache: cache == truth,
            what=f"cache = {truth}",
            seconds=PATIENT,
        )


@pytest.fixture
def namespace(kubernetes: Cluster) -> Iterator[str]:
    name = f"informers-{next(_numbers)}"
    kubernetes.api.ensure("/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    kubernetes.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
async def scene(kubernetes: Cluster, namespace: str, tmp_path: Path) -> AsyncIterator[Scene]:
    async with proxied(kubernetes, tmp_path, user="informer", groups=["system:masters"]) as (
        proxy,
        kubeconfig,
    ):
        client = await KubeClient.connect(kubeconfig, user_agent="test", field_manager="test")
        try:
            yield Scene(api=kubernetes.api, namespace=namespace, proxy=proxy, client=client)
        finally:
            await client.close()


@asynccontextmanager
async def at_rest(scene: Scene, *names: str) -> AsyncIterator[Informer[str]]:
    """Run an informer that has some ConfigMaps and watches."""
    for name in names:
        await asyncio.to_thread(scene.put, name)
    async with scene.informing() as informer:
        await scene.watched(informer)
        yield informer


async def change_all(scene: Scene) -> None:
    """Delete a, change b, make c."""
    await asyncio.to_thread(scene.delete, "a")
    await asyncio.to_thread(scene.edit, "b", "2")
    await asyncio.to_thread(scene.put, "c")


def assert_told_of_all(scene: Scene) -> None:
    assert scene.told("a") == [(None, "1"), ("1", None)]
    assert scene.told("b") == [(None, "1"), ("1", "2")]
    assert scene.told("c") == [(None, "1")]


# Lists.


async def test_collection_is_listed_by_pages(scene: Scene) -> None:
    async with at_rest(scene, *"abcdefg") as informer:
        assert [call.query["limit"] for call in scene.proxy.seen("list", NAME)] == ["3", "3", "3"]
        assert scene.lists() == 1
        await scene.equal(informer)


async def test_change_between_list_and_watch_is_not_lost(scene: Scene) -> None:
    hold = Hold()
    scene.proxy.on(hold, "watch", times=1)
    for name in "ab":
        await asyncio.to_thread(scene.put, name)
    async with scene.informing() as informer:
        async with asyncio.timeout(PATIENT):
            await hold.reached.wait()
        await change_all(scene)
        hold.release.set()
        await scene.equal(informer)
    assert_told_of_all(scene)
    assert scene.lists() == 1


async def test_list_begins_anew_when_its_token_has_expired(scene: Scene) -> None:
    scene.proxy.on(GONE, "list", query="continue", times=1)
    async with at_rest(scene, *"abcdefg") as informer:
        await scene.equal(informer)
    assert scene.lists() == 2
    assert all(change.new is not None for change in scene.changes)
    assert all(scene.told(name) == [(None, "1")] for name in "abcdefg")


async def test_nothing_is_forgotten_while_a_list_is_cut_off_half_way(scene: Scene) -> None:
    async with at_rest(scene, *"abcdefg") as informer:
        scene.proxy.on(Answer(code=500), "list", query="continue", times=2)
        scene.proxy.on(GONE, "watch", times=1)
        scene.proxy.cut(NAME)
        await eventually(
            lambda: asyncio.sleep(0, scene.lists()), lambda lists: lists > 3, what="lists"
        )
        await scene.equal(informer)
    assert all(change.new is not None for change in scene.changes)


# History that is gone.


async def test_change_while_the_history_was_lost_is_told_after_one_list(scene: Scene) -> None:
    async with at_rest(scene, "a", "b") as informer:
        hold = Hold()
        scene.proxy.on(hold, "list", times=1)
        scene.proxy.on(GONE, "watch", times=1)
        scene.proxy.cut(NAME)
        async with asyncio.timeout(PATIENT):
            await hold.reached.wait()
        await change_all(scene)
        hold.release.set()
        await scene.equal(informer)
    assert scene.lists() == 2
    assert_told_of_all(scene)
    assert [change.fresh for change in scene.changes if change.key == scene.key("a")] == [False] * 2


async def test_history_lost_in_the_middle_of_a_watch_costs_one_list(scene: Scene) -> None:
    async with at_rest(scene, "a", "b") as informer:
        for lost in range(1, 4):
            (stream,) = scene.proxy.streams(NAME)
            await stream.send(error_event(410, "Expired"))
            await eventually(
                lambda lost=lost: asyncio.sleep(0, scene.lists()),
                lambda lists, lost=lost: lists == 1 + lost,
                what="a list",
            )
            await scene.equal(informer)
            await scene.watched(informer)
    assert scene.lists() == 4


async def test_watch_goes_on_from_the_last_bookmark(scene: Scene) -> None:
    async with at_rest(scene, "a") as informer:
        await scene.equal(informer)
        item = await asyncio.to_thread(scene.api.get, f"{scene.path}/a")
        newest = (await asyncio.to_thread(scene.api.get, scene.path))["metadata"]["resourceVersion"]
        assert int(newest) > int(item["metadata"]["resourceVersion"])
        (stream,) = scene.proxy.streams(NAME)
        bookmark = {"metadata": {"resourceVersion": newest}}
        await stream.send({"type": "BOOKMARK", "object": bookmark})
        watches = len(scene.proxy.seen("watch", NAME))
        await asyncio.sleep(0)
        scene.proxy.cut(NAME)
        await scene.equal(informer)
        after = scene.proxy.seen("watch", NAME)[watches:]
    assert all(call.query["allowWatchBookmarks"] == "true" for call in after)
    assert int(after[0].query["resourceVersion"]) >= int(newest)
    assert scene.lists() == 1


# Connections.


async def test_watch_that_is_cut_goes_on_where_it_was(scene: Scene) -> None:
    async with at_rest(scene, "a", "b") as informer:
        hold = Hold()
        scene.proxy.on(hold, "watch", times=1)
        scene.proxy.cut(NAME)
        async with asyncio.timeout(PATIENT):
            await hold.reached.wait()
        await change_all(scene)
        hold.release.set()
        await scene.equal(informer)
    assert scene.lists() == 1
    assert_told_of_all(scene)


async def test_half_open_watch_is_found_by_its_silence(scene: Scene) -> None:
    async with at_rest(scene, "a", "b") as informer:
        scene.proxy.silence(NAME)
        await change_all(scene)
        await scene.equal(informer)
    assert len(scene.proxy.seen("watch", NAME)) > 1
    assert scene.lists() == 1
    assert_told_of_all(scene)


async def test_watch_that_is_never_answered_is_given_up(scene: Scene) -> None:
    async with at_rest(scene, "a", "b") as informer:
        scene.proxy.on(Silence(), "watch", times=2)
        scene.proxy.cut(NAME)
        await change_all(scene)
        await scene.equal(informer)
    assert len(scene.proxy.seen("watch", NAME)) > 3
    assert scene.lists() == 1
    assert_told_of_all(scene)


async def test_server_that_was_down_is_caught_up_with_by_the_watch_alone(scene: Scene) -> None:
    async with at_rest(scene, "a", "b") as informer:
        await scene.proxy.down()
        await change_all(scene)
        await scene.proxy.up()
        await scene.equal(informer)
    assert scene.lists() == 1
    assert_told_of_all(scene)


# Pauses.


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_pause_is_as_long_as_the_server_asks_for(scene: Scene, verb: str) -> None:
    scene.proxy.on(Answer(code=429, reason="TooManyRequests", retry_after=2), verb, times=1)
    async with at_rest(scene, "a") as informer:
        await scene.equal(informer)
    refused, taken, *_ = scene.proxy.seen(verb, NAME)
    # Clocks of client and proxy start at the answer's two ends.
    assert taken.at - refused.at > 1.9


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_pauses_grow_are_bounded_and_differ(scene: Scene, verb: str) -> None:
    scene.proxy.on(Answer(code=500), verb, times=8)
    async with at_rest(scene, "a") as informer:
        await scene.equal(informer)
    moments = [call.at for call in scene.proxy.seen(verb, NAME)[:9]]
    pauses = [after - before for before, after in pairwise(moments)]
    least = [0.025, 0.05, *[0.1] * 6]
    assert all(pause > low * 0.9 for pause, low in zip(pauses, least, strict=True))
    assert len({round(pause, 4) for pause in pauses[2:]}) > 1


async def test_server_that_ends_every_watch_at_once_is_not_stormed(scene: Scene) -> None:
    clock = SystemClock()
    async with at_rest(scene, "a") as informer:
        scene.proxy.rewrite_event = lambda event: [error_event(500)]
        began, before = clock.monotonic(), len(scene.proxy.seen("watch", NAME))
        for value in range(5):
            await asyncio.to_thread(scene.edit, "a", str(value))
        await eventually(
            lambda: asyncio.sleep(0, len(scene.proxy.seen("watch", NAME))),
            lambda watches: watches > before + 4,
            what="new watches",
        )
        took, made = clock.monotonic() - began, len(scene.proxy.seen("watch", NAME)) - before
        assert made <= 2 + took / 0.025
        scene.proxy.heal()
        await scene.equal(informer)


# Content.


async def test_event_that_comes_twice_or_late_is_told_once(scene: Scene) -> None:
    earlier: list[dict[str, Any]] = []

    def stutter(event: dict[str, Any]) -> list[dict[str, Any]]:
        late = [each for each in earlier if each["object"]["metadata"]["name"] == "b"]
        earlier.append(event)
        return [event, event] if event["type"] == "DELETED" else [event, event, *late]

    async with at_rest(scene, "a", "b") as informer:
        scene.proxy.rewrite_event = stutter
        await change_all(scene)
        await asyncio.to_thread(scene.edit, "b", "3")
        await scene.equal(informer)
    assert scene.told("a") == [(None, "1"), ("1", None)]
    assert scene.told("b") == [(None, "1"), ("1", "2"), ("2", "3")]
    assert scene.told("c") == [(None, "1")]


def spoil(content: dict[str, Any]) -> dict[str, Any]:
    """Take from ConfigMap b what decode() needs."""
    bad = content["metadata"]["name"] == "b"
    return {**content, "data": {}} if bad else content


async def test_object_that_cannot_be_read_any_more_is_not_deleted(scene: Scene) -> None:
    async with at_rest(scene, "a", "b") as informer:
        scene.proxy.rewrite_object = spoil
        await asyncio.to_thread(scene.edit, "b", "2")
        await eventually(lambda: asyncio.sleep(0, informer.store.unreadable), what="unreadable")
        await asyncio.to_thread(scene.edit, "a", "2")
        await eventually(
            lambda: asyncio.sleep(0, dict(informer.store)),
            lambda cache: cache == {scene.key("a"): "2", scene.key("b"): "1"},
        )
        assert scene.told("b") == [(None, "1")]
        scene.proxy.heal()
        await asyncio.to_thread(scene.edit, "b", "3")
        await scene.equal(informer)
    assert scene.told("b") == [(None, "1"), (None, "3")]
    assert informer.store.unreadable == set()


async def test_object_that_could_never_be_read_is_known_and_its_end_is_told(scene: Scene) -> None:
    scene.proxy.rewrite_object = spoil
    async with at_rest(scene, *"abcdefg") as informer:
        assert informer.store.unreadable == {scene.key("b")}
        assert set(informer.store) == {scene.key(name) for name in "acdefg"}
        await asyncio.to_thread(scene.delete, "b")
        await scene.equal(informer)
    assert scene.told("b") == [(None, None)]
    assert informer.store.unreadable == set()


async def test_unreadable_object_that_went_during_a_list_is_told_as_gone(scene: Scene) -> None:
    scene.proxy.rewrite_object = spoil
    async with at_rest(scene, "a", "b") as informer:
        hold = Hold()
        scene.proxy.on(hold, "list", times=1)
        scene.proxy.on(GONE, "watch", times=1)
        scene.proxy.cut(NAME)
        async with asyncio.timeout(PATIENT):
            await hold.reached.wait()
        await asyncio.to_thread(scene.delete, "b")
        hold.release.set()
        await scene.equal(informer)
    assert scene.told("b") == [(None, None)]
