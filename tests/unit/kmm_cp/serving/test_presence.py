"""How a replica says that it lives, and what it does if nobody believed it."""

import asyncio
import logging
from dataclasses import dataclass

import pytest

from kmm_common.errors import TransientError
from kmm_cp.serving.presence import BEAT_SECONDS, SILENT_SECONDS, Presence
from support.virtualclock import VirtualClock, rest


@dataclass
class World:
    """Where it beats, and its list."""

    there: bool = False
    away: bool = False
    beats: int = 0
    renewals: int = 0

    async def beat(self) -> bool:
        if self.away:
            raise TransientError("away")
        self.beats += 1
        anew, self.there = not self.there, True
        return anew

    async def end(self) -> None:
        self.there = False

    def renew(self) -> None:
        self.renewals += 1


async def test_replica_that_was_silent_lists_its_nodes_anew_though_its_sign_of_life_is_still_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever took it for dead may have come no further than the list."""
    clock, world = VirtualClock(), World()
    presence = Presence(beats=world, served=world, clock=clock)  # type: ignore[arg-type]
    running = asyncio.create_task(presence.run())
    await rest()
    for silent, renewals in ((SILENT_SECONDS - BEAT_SECONDS, 0), (SILENT_SECONDS, 1)):
        world.away = True
        await clock.advance(silent)
        world.away = False
        await clock.advance(BEAT_SECONDS)
        assert world.renewals == renewals
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_replica_beats_and_lists_its_nodes_anew_only_when_it_was_taken_for_dead(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    clock, world = VirtualClock(), World()
    presence = Presence(beats=world, served=world, clock=clock)  # type: ignore[arg-type]
    running = asyncio.create_task(presence.run())
    await rest()
    assert (world.beats, world.renewals) == (1, 0)
    await clock.advance(10 * BEAT_SECONDS)
    assert (world.beats, world.renewals) == (11, 0)
    world.away = True
    await clock.advance(10 * BEAT_SECONDS)
    assert caplog.messages == ["sign of life not given"]
    world.away = world.there = False
    await clock.advance(2 * BEAT_SECONDS)
    assert (world.beats, world.renewals) == (13, 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await presence.withdraw()
    assert not world.there
