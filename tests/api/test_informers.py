"""Informers of the real API server's ConfigMaps, behind a proxy that breaks it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.cluster import Cluster
from support.configmaps import (
    NAME,
    PATIENT,
    Scene,
    assert_told_of_all,
    at_rest,
    change_all,
    running_scene,
)
from support.faultproxy import GONE, Answer, Hold, Silence, error_event
from support.fleet import eventually


@pytest.fixture
async def scene(kubernetes: Cluster, tmp_path: Path) -> AsyncIterator[Scene]:
    async with running_scene(kubernetes, tmp_path) as started:
        yield started


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
                lambda: asyncio.sleep(0, scene.lists()),
                (1 + lost).__eq__,
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
        scene.proxy.silence(NAME)
        await scene.equal(informer)
        after = scene.proxy.seen("watch", NAME)[watches:]
    assert all(call.query["allowWatchBookmarks"] == "true" for call in after)
    assert int(after[0].query["resourceVersion"]) >= int(newest)
    assert scene.lists() == 1


async def test_server_whose_history_ends_before_ours_is_listed_anew(scene: Scene) -> None:
    async with at_rest(scene, "a", "b") as informer:
        # What a watch is from the server's point of view after etcd was restored.
        bookmark = {"metadata": {"resourceVersion": str(10**9)}}
        (stream,) = scene.proxy.streams(NAME)
        await stream.send({"type": "BOOKMARK", "object": bookmark})
        scene.proxy.silence(NAME)
        await change_all(scene)
        await scene.equal(informer)
    assert scene.lists() == 2
    assert_told_of_all(scene)


async def test_quiet_collection_costs_no_list(scene: Scene) -> None:
    async with at_rest(scene, "a", "b") as informer:
        await eventually(
            lambda: asyncio.sleep(0, len(scene.proxy.seen("watch", NAME))),
            lambda watches: watches > 2,
            what="silent watches",
            seconds=PATIENT,
        )
        await scene.equal(informer)
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
    async with at_rest(scene, "a", "b", "newest") as informer:
        scene.proxy.silence(NAME)
        await change_all(scene)
        await scene.equal(informer)
    assert len(scene.proxy.seen("watch", NAME)) > 1
    assert scene.lists() == 1
    assert_told_of_all(scene)


async def test_watch_that_is_never_answered_is_given_up(scene: Scene) -> None:
    async with at_rest(scene, "a", "b", "newest") as informer:
        scene.proxy.on(Silence(), "watch", times=2)
        scene.proxy.cut(NAME)
        await change_all(scene)
        await scene.equal(informer)
    assert len(scene.proxy.seen("watch", NAME)) > 3
    assert scene.lists() == 1
    assert_told_of_all(scene)


@pytest.mark.parametrize(
    ("names", "lists"),
    [(["a", "b", "newest"], 1), (["newest", "a", "b"], 2)],
    ids=["newest is the same", "newest was changed"],
)
async def test_server_that_was_down_costs_a_list_only_if_the_newest_object_was_changed(
    scene: Scene, names: list[str], lists: int
) -> None:
    """Only then it may be that its etcd was restored meanwhile."""
    async with at_rest(scene, *names) as informer:
        tried = len(scene.clock.pauses)
        await scene.proxy.down()
        await eventually(
            lambda: asyncio.sleep(0, len(scene.clock.pauses)),
            lambda pauses: pauses > tried + 3,
            what="attempts to reach it",
        )
        await change_all(scene)
        await scene.proxy.up()
        await scene.equal(informer)
    assert scene.lists() == lists
    assert_told_of_all(scene)


async def test_connection_refused_for_a_moment_costs_no_list(scene: Scene) -> None:
    async with at_rest(scene, "a", "b", "newest") as informer:
        scene.proxy.on(Answer(code=503), "watch", times=1)
        scene.proxy.cut(NAME)
        await change_all(scene)
        await scene.equal(informer)
    assert scene.lists() == 1
    assert_told_of_all(scene)


# Pauses.


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_pause_is_as_long_as_the_server_asks_for(scene: Scene, verb: str) -> None:
    scene.proxy.on(Answer(code=429, reason="TooManyRequests", retry_after=2), verb, times=1)
    async with at_rest(scene, "a") as informer:
        await scene.equal(informer)
    assert scene.clock.pauses == [2.0]


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_pauses_grow_are_bounded_and_differ(scene: Scene, verb: str) -> None:
    scene.proxy.on(Answer(code=500), verb, times=8)
    async with at_rest(scene, "a") as informer:
        await scene.equal(informer)
    pauses, least = scene.clock.pauses, [0.025, 0.05, *[0.1] * 6]
    assert all(low <= pause <= 2 * low for pause, low in zip(pauses, least, strict=True))
    assert len(set(pauses[2:])) > 1


async def test_server_that_ends_every_watch_at_once_is_not_stormed(scene: Scene) -> None:
    async with at_rest(scene, "a", "newest") as informer:
        scene.proxy.rewrite_event = lambda event: [error_event(500)]
        before = len(scene.proxy.seen("watch", NAME))
        for value in range(5):
            await asyncio.to_thread(scene.edit, "a", str(value))
        await eventually(
            lambda: asyncio.sleep(0, len(scene.proxy.seen("watch", NAME))),
            lambda watches: watches > before + 4,
            what="new watches",
        )
        # The newest watch may not have ended yet; every other one was followed by a pause.
        assert len(scene.clock.pauses) >= len(scene.proxy.seen("watch", NAME)) - before
        assert min(scene.clock.pauses) >= 0.025
        scene.proxy.heal()
        await scene.equal(informer)
