"""When a replica counts as dead."""

import asyncio
from dataclasses import dataclass, field

from kmm_common.errors import TransientError
from kmm_cp.reconcilers.replicas import LOOK_SECONDS, MISSED_LOOKS, DeadReplicas, Pulse, felt
from support.virtualclock import VirtualClock, rest


def test_sign_that_does_not_change_is_counted_and_a_new_one_begins_anew() -> None:
    pulses = felt({}, {"a": "1", "b": "1"}, ["c"])
    assert pulses == {"a": Pulse(stamp="1"), "b": Pulse(stamp="1"), "c": Pulse(stamp="")}
    pulses = felt(pulses, {"a": "2", "b": "1"}, ["c"])
    assert {name: pulse.missed for name, pulse in pulses.items()} == {"a": 0, "b": 1, "c": 1}
    assert felt(pulses, {}, []) == {}


@dataclass
class World:
    """A leader that looks at replicas a, which beats, and b, which ended without a word."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    away: bool = False
    beats: int = 0
    lists: dict[str, list[str]] = field(default_factory=lambda: {"a": [], "b": [], "old": []})
    cleared: list[str] = field(default_factory=list)

    async def signs(self) -> dict[str, str]:
        if self.away:
            raise TransientError("away")
        self.beats += 1
        return {"a": str(self.beats), "b": "last", "c": "last"}

    async def clear(self, replica: str) -> None:
        self.lists.pop(replica, None)
        self.cleared.append(replica)

    def service(self) -> DeadReplicas:
        return DeadReplicas(
            signs=self.signs, listing=lambda: self.lists, clear=self.clear, clock=self.clock
        )


async def test_who_gives_no_sign_of_life_is_cleared_away_and_nobody_else() -> None:
    world = World()
    running = asyncio.create_task(world.service().run())
    await rest()
    await world.clock.advance(LOOK_SECONDS * (MISSED_LOOKS - 1))
    assert world.cleared == []
    await world.clock.advance(LOOK_SECONDS)
    assert sorted(world.cleared) == ["b", "c", "old"]
    assert list(world.lists) == ["a"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_nobody_is_dead_because_there_was_no_api_server() -> None:
    world = World()
    running = asyncio.create_task(world.service().run())
    await rest()
    for _ in range(5):
        await world.clock.advance(LOOK_SECONDS * (MISSED_LOOKS - 1))
        world.away = True
        await world.clock.advance(600)
        world.away = False
    assert world.cleared == []
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
