"""In which order a controller takes what an informer of the real API server brings."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kmm_common.clock import SystemClock
from kmm_cp.kube.informer import Change, Informer
from kmm_cp.runtime.controller import DONE, Controller, Outcome, Result
from kmm_cp.runtime.queue import Priority
from support.cluster import Cluster
from support.configmaps import NAME, PATIENT, Scene, at_rest, running_scene
from support.faultproxy import GONE, Hold
from support.fleet import eventually


@pytest.fixture
async def scene(kubernetes: Cluster, tmp_path: Path) -> AsyncIterator[Scene]:
    async with running_scene(kubernetes, tmp_path) as started:
        yield started


@dataclass(slots=True)
class Worked:
    """A controller whose reconciles wait for a gate; notes what each saw in the cache."""

    informer: Informer[str]
    workers: int
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    at_once: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    controller: Controller[str] = field(init=False)

    def __post_init__(self) -> None:
        self.controller = Controller(
            "test", self.reconcile, clock=SystemClock(), observer=self, workers=self.workers
        )
        self.informer.add_handler(self.changed)

    def changed(self, change: Change[str]) -> None:
        priority = Priority.FRESH if change.fresh else Priority.RESYNC
        self.controller.queue.add(change.key, priority)

    def reconciled(self, controller: str, outcome: Outcome, seconds: float) -> None:
        assert outcome is Outcome.DONE

    async def reconcile(self, key: str) -> Result:
        self.seen.append((key, self.informer.store.get(key)))
        self.at_once[key] += 1
        self.most_at_once = max(self.most_at_once, self.at_once[key])
        await self.gate.wait()
        self.at_once[key] -= 1
        return DONE

    def keys(self) -> list[str]:
        """Return the names that were reconciled, in order."""
        return [key.rpartition("/")[2] for key, _ in self.seen]


@asynccontextmanager
async def working(informer: Informer[str], *, workers: int) -> AsyncIterator[Worked]:
    worked = Worked(informer, workers)
    running = asyncio.create_task(worked.controller.run(), name="controller")
    try:
        yield worked
    finally:
        worked.gate.set()
        worked.controller.stop()
        await running


async def test_fresh_change_goes_before_all_that_a_list_brought(scene: Scene) -> None:
    async with at_rest(scene, *"abc") as informer, working(informer, workers=1) as worked:
        await asyncio.to_thread(scene.put, "first")
        await eventually(lambda: asyncio.sleep(0, worked.keys()), what="first in progress")
        hold = Hold()
        scene.proxy.on(hold, "list", times=1)
        scene.proxy.on(GONE, "watch", times=1)
        scene.proxy.cut(NAME)
        async with asyncio.timeout(PATIENT):
            await hold.reached.wait()
        for name in "abc":
            await asyncio.to_thread(scene.edit, name, "2")
        hold.release.set()
        await eventually(
            lambda: asyncio.sleep(0, worked.controller.queue.statistics().ready),
            lambda ready: ready == 3,
            what="what the list brought",
        )
        await asyncio.to_thread(scene.put, "fresh")
        await eventually(
            lambda: asyncio.sleep(0, worked.controller.queue.statistics().ready),
            lambda ready: ready == 4,
            what="what the watch brought",
        )
        worked.gate.set()
        await eventually(
            lambda: asyncio.sleep(0, len(worked.seen)), lambda count: count == 5, what="all five"
        )
    assert worked.keys() == ["first", "fresh", "a", "b", "c"]


async def test_key_that_changes_while_in_progress_runs_once_more_alone(scene: Scene) -> None:
    async with at_rest(scene, "a", "b") as informer, working(informer, workers=4) as worked:
        await asyncio.to_thread(scene.edit, "a", "2")
        await eventually(lambda: asyncio.sleep(0, worked.keys()), what="a in progress")
        for value in "345":
            await asyncio.to_thread(scene.edit, "a", value)
        await scene.equal(informer)
        await asyncio.to_thread(scene.edit, "b", "2")
        await eventually(
            lambda: asyncio.sleep(0, worked.keys()),
            lambda keys: "b" in keys,
            what="b goes on",
        )
        assert worked.keys().count("a") == 1
        worked.gate.set()
        await eventually(
            lambda: asyncio.sleep(0, worked.keys().count("a")), lambda count: count == 2
        )
    assert worked.seen[-1] == (scene.key("a"), "5")
    assert worked.most_at_once == 1
