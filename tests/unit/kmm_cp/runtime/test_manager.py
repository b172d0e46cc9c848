"""In which order the tasks of a process begin and end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from kmm_common.logs import fields_of
from kmm_cp.runtime.controller import DONE, Controller, Outcome, Result
from kmm_cp.runtime.manager import DRAIN_SECONDS, STEADY_SECONDS, Manager
from support.virtualclock import VirtualClock, rest


class Part:
    """A cache or service that does what it is told for each run, then waits for its end."""

    def __init__(self, name: str, *acts: Callable[[], Awaitable[object]]) -> None:
        self.name = name
        self.synced = asyncio.Event()
        self.acts = list(acts)
        self.runs = 0
        self.cancelled = False

    async def run(self) -> None:
        self.runs += 1
        if self.acts:
            await self.acts.pop(0)()
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


class Silent:
    """An observer that does not care."""

    def reconciled(self, controller: str, outcome: Outcome, seconds: float) -> None:
        pass


@dataclass(slots=True)
class World:
    """A manager of two caches, a service and one controller."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    caches: list[Part] = field(default_factory=lambda: [Part("modules"), Part("nodes")])
    service: Part = field(default_factory=lambda: Part("service"))
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    controller: Controller[str] = field(init=False)
    manager: Manager = field(init=False)

    def __post_init__(self) -> None:
        self.controller = Controller("kind", self.reconcile, clock=self.clock, observer=Silent())
        self.manager = Manager(
            caches=self.caches,
            services=[self.service],
            controllers=[self.controller],
            clock=self.clock,
            before_controllers=lambda: self.begun.append("before"),
        )

    async def reconcile(self, key: str) -> Result:
        self.begun.append(key)
        await self.gate.wait()
        self.ended.append(key)
        return DONE

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


async def test_controllers_wait_for_every_cache() -> None:
    world = World()
    world.controller.queue.add("a")
    async with world.running():
        assert [part.runs for part in (*world.caches, world.service)] == [1, 1, 1]
        world.caches[0].synced.set()
        await rest()
        assert world.begun == []
        assert not world.manager.synced.is_set()
        world.caches[1].synced.set()
        await rest()
        assert world.begun == ["before", "a"]
        assert world.manager.synced.is_set()
        world.gate.set()


async def test_stop_before_the_caches_are_synced_begins_nothing() -> None:
    world = World()
    world.controller.queue.add("a")
    async with world.running():
        pass
    assert world.begun == []
    assert all(cache.cancelled for cache in world.caches)


async def test_stop_lets_reconciles_in_progress_end_while_caches_and_services_run() -> None:
    world = World()
    world.sync()
    async with world.running() as running:
        world.controller.queue.add("a")
        await rest()
        world.controller.queue.add("b")
        world.controller.queue.add("a")
        await rest()
        world.manager.stop()
        await rest()
        assert not running.done()
        assert not world.service.cancelled
        world.gate.set()
    assert world.begun == ["before", "a", "b"]
    assert world.ended == ["a", "b"]
    assert all(part.cancelled for part in (*world.caches, world.service))


async def test_reconcile_that_does_not_end_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert DRAIN_SECONDS < 30, "Kubernetes kills a Pod after so long"
    monkeypatch.setattr("kmm_cp.runtime.manager.DRAIN_SECONDS", 0.01)
    world = World()
    world.sync()
    async with world.running():
        world.controller.queue.add("a")
        await rest()
    assert (world.begun, world.ended) == (["before", "a"], [])
    assert "reconciles cut off" in [record.getMessage() for record in caplog.records]


async def crash() -> None:
    raise ZeroDivisionError


async def cancelled_elsewhere() -> None:
    task = asyncio.create_task(asyncio.sleep(100))
    task.cancel()
    await task


@pytest.mark.parametrize("act", [crash, cancelled_elsewhere])
async def test_service_that_breaks_is_run_again_after_a_pause(
    act: Callable[[], Awaitable[object]], caplog: pytest.LogCaptureFixture
) -> None:
    world = World(service=Part("service", act, act))
    async with world.running():
        assert world.service.runs == 1
        await world.clock.advance(10)
        assert world.service.runs == 3
    crashes = [each for each in caplog.records if each.getMessage() == "service crashed"]
    pauses = [fields_of(each)["retry_in"] for each in crashes]
    assert pauses[0] <= 0.5 < 0.8 <= pauses[1] <= 1.0


async def test_service_that_ran_for_long_is_run_again_soon() -> None:
    world = World()

    async def crash_late() -> None:
        await world.clock.sleep(STEADY_SECONDS + 1)
        raise ZeroDivisionError

    world.service.acts = [crash] * 8 + [crash_late]
    async with world.running():
        await world.clock.advance(120)
        assert world.service.runs == 9
        await world.clock.advance(STEADY_SECONDS + 2)
        assert world.service.runs == 10


async def test_service_that_ends_well_is_not_run_again() -> None:
    world = World(service=Part("service", rest))
    async with world.running():
        await world.clock.advance(100)
    assert world.service.runs == 1


async def test_cancelled_manager_cancels_everything() -> None:
    world = World()
    world.sync()
    running = asyncio.create_task(world.manager.run())
    world.controller.queue.add("a")
    await rest()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert world.ended == []
    assert all(part.cancelled for part in (*world.caches, world.service))


async def test_what_cannot_begin_ends_the_process() -> None:
    world = World()

    def broken() -> None:
        raise ZeroDivisionError

    manager = Manager(
        caches=[],
        services=[world.service],
        controllers=[],
        clock=world.clock,
        before_controllers=broken,
    )
    with pytest.raises(ExceptionGroup) as caught:
        await manager.run()
    assert caught.group_contains(ZeroDivisionError)
    assert world.service.cancelled
