"""In which order the tasks of a process begin and end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from kmm_cp.runtime.manager import END_SECONDS, Manager
from support.parts import Part
from support.virtualclock import VirtualClock, rest


class Work:
    """Begins, and ends when it is told to and let."""

    def __init__(self) -> None:
        self.begun = self.ended = False
        self.told = asyncio.Event()
        self.gate = asyncio.Event()

    async def run(self) -> None:
        self.begun = True
        await self.told.wait()
        await self.gate.wait()
        self.ended = True

    def stop(self) -> None:
        self.told.set()


@dataclass(slots=True)
class World:
    """A manager of two caches, a service and some work."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    caches: list[Part] = field(default_factory=lambda: [Part("modules"), Part("nodes")])
    service: Part = field(default_factory=lambda: Part("service"))
    work: Work = field(default_factory=Work)
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    manager: Manager = field(init=False)

    def __post_init__(self) -> None:
        self.manager = Manager(
            caches=self.caches,
            services=[self.service],
            work=self.work,
            clock=self.clock,
            synced=self.synced,
        )

    def sync(self) -> None:
        for cache in self.caches:
            cache.synced.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Run the manager; in the end it must stop by itself."""
        task = asyncio.create_task(self.manager.run())
        await rest()
        yield task
        self.manager.stop()
        await task


async def test_work_waits_for_every_cache() -> None:
    world = World()
    async with world.running():
        assert [part.runs for part in (*world.caches, world.service)] == [1, 1, 1]
        world.caches[0].synced.set()
        await rest()
        assert not world.work.begun
        assert not world.synced.is_set()
        world.caches[1].synced.set()
        await rest()
        assert world.work.begun
        assert world.synced.is_set()
        world.work.gate.set()


async def test_stop_before_the_caches_are_synced_begins_nothing() -> None:
    world = World()
    async with world.running():
        pass
    assert not world.work.begun
    assert all(cache.cancelled for cache in world.caches)


async def test_stop_lets_the_work_end_while_caches_and_services_run() -> None:
    world = World()
    world.sync()
    async with world.running() as running:
        world.manager.stop()
        await rest()
        assert not running.done()
        assert not world.service.cancelled
        world.work.gate.set()
    assert world.work.ended
    assert all(part.cancelled for part in (*world.caches, world.service))


async def test_work_that_does_not_end_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert END_SECONDS < 30, "Kubernetes kills a Pod after so long"
    monkeypatch.setattr("kmm_cp.runtime.manager.END_SECONDS", 0.01)
    world = World()
    world.sync()
    async with world.running():
        pass
    assert (world.work.begun, world.work.ended) == (True, False)
    assert "work cut off" in [record.getMessage() for record in caplog.records]


async def test_cancelled_manager_cancels_everything() -> None:
    world = World()
    world.sync()
    running = asyncio.create_task(world.manager.run())
    await rest()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert not world.work.ended
    assert all(part.cancelled for part in (*world.caches, world.service))


async def test_work_that_cannot_begin_ends_the_process() -> None:
    class Broken(Work):
        async def run(self) -> None:
            raise ZeroDivisionError

    world = World(work=Broken())
    world.sync()
    with pytest.raises(ExceptionGroup) as caught:
        await world.manager.run()
    assert caught.group_contains(ZeroDivisionError)
    assert world.service.cancelled
