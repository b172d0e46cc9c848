"""What informers make of events that come twice, and of objects that they cannot read."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster import Cluster
from support.configmaps import NAME, PATIENT, Scene, at_rest, change_all, running_scene
from support.faultproxy import GONE, Hold
from support.fleet import eventually


@pytest.fixture
async def scene(kubernetes: Cluster, tmp_path: Path) -> AsyncIterator[Scene]:
    async with running_scene(kubernetes, tmp_path) as started:
        yield started


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
