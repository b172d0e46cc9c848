"""How another KMM is looked for, at the start and at work."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from kmm_common.errors import KmmError
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.errors import UnavailableError
from kmm_cp.kube.neighbours import LOOK_SECONDS, WATCH_SECONDS, NeighbourError, Neighbours
from kmm_cp.kube.resources import Resource
from support.kubecalls import EventCalls
from support.virtualclock import START, VirtualClock, rest

AWAY = UnavailableError("away", reason="Unavailable")


@dataclass
class World(KubeClient):
    """An API server with the Lease of somebody who renews it while alive."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    held: bool = True
    alive: bool = True
    errors: list[KmmError] = field(default_factory=list)
    events: EventCalls = field(default_factory=EventCalls)
    counts: list[int] = field(default_factory=list)
    _renewed: str = START.isoformat()

    def __post_init__(self) -> None:
        self.neighbours = Neighbours(
            client=self,
            events=self.events,
            namespace="ours",
            tell=self.counts.append,
            clock=self.clock,
        )

    async def named(self, resource: Resource, name: str) -> list[dict[str, Any]]:
        if self.errors:
            raise self.errors.pop(0)
        if self.alive:
            self._renewed = self.clock.now().isoformat()
        holder = {"holderIdentity": "kmm-0123456789-abcde_u", "renewTime": self._renewed}
        metadata = {"namespace": "theirs", "name": name}
        spec = {**holder, "leaseDurationSeconds": 15}
        return [{"metadata": metadata, "spec": spec}] if self.held else []


async def test_nobody_there_delays_nothing() -> None:
    world = World(held=False)
    await world.neighbours.require_none()
    assert world.clock.monotonic() == 0


async def test_somebody_who_renews_the_lease_is_named_and_told_of() -> None:
    world = World()
    looking = asyncio.create_task(world.neighbours.require_none())
    await world.clock.advance(LOOK_SECONDS)
    with pytest.raises(NeighbourError, match="Deployment theirs/kmm holds"):
        await looking
    [told] = world.events.told
    assert (told.type, told.kind, told.name) == ("Warning", "Namespace", "ours")
    assert world.events.drained == 1
    assert told.message.startswith("Another KMM is active: Deployment theirs/kmm")


async def test_somebody_who_renews_it_no_more_is_waited_for_as_long_as_the_lease_says() -> None:
    world = World(alive=False)
    looking = asyncio.create_task(world.neighbours.require_none())
    await world.clock.advance(19)
    assert not looking.done()
    await world.clock.advance(2)
    await looking
    assert world.events.told == []


async def test_an_api_server_that_is_away_is_asked_until_it_answers() -> None:
    world = World(held=False, errors=[AWAY] * 3)
    looking = asyncio.create_task(world.neighbours.require_none())
    await rest()
    assert not looking.done()
    await world.clock.advance(60)
    await looking


async def test_somebody_who_comes_while_we_are_at_work_is_told_of_once_until_they_go() -> None:
    world = World(held=False)
    running = asyncio.create_task(world.neighbours.run())
    await world.clock.advance(WATCH_SECONDS)
    world.held = True
    await world.clock.advance(WATCH_SECONDS * 4)
    assert len(world.events.told) == 1
    world.alive = False
    await world.clock.advance(WATCH_SECONDS)
    world.alive = True
    await world.clock.advance(WATCH_SECONDS)
    assert len(world.events.told) == 2
    assert world.counts == [0, 0, 1, 1, 1, 0, 1]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
