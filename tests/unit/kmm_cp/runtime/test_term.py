"""What a leader runs, and how it ends."""

import asyncio
from dataclasses import dataclass, field

from kmm_cp.runtime.controller import DONE, Controller, Outcome, Result
from kmm_cp.runtime.term import Term
from support.parts import Part
from support.virtualclock import VirtualClock, rest


class Silent:
    """An observer that does not care."""

    def reconciled(self, controller: str, outcome: Outcome, seconds: float) -> None:
        pass


@dataclass(slots=True)
class World:
    """A term of one controller and a service."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    service: Part = field(default_factory=lambda: Part("service"))
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    controller: Controller[str] = field(init=False)
    term: Term = field(init=False)

    def __post_init__(self) -> None:
        self.controller = Controller("kind", self.reconcile, clock=self.clock, observer=Silent())
        self.term = Term(controllers=[self.controller], services=[self.service], clock=self.clock)

    async def reconcile(self, key: str) -> Result:
        self.begun.append(key)
        await self.gate.wait()
        self.ended.append(key)
        return DONE


async def test_stop_lets_reconciles_in_progress_end_while_services_run() -> None:
    world = World()
    running = asyncio.create_task(world.term.run())
    for key in "aba":
        world.controller.queue.add(key)
        await rest()
    world.term.stop()
    world.controller.queue.add("c")
    await rest()
    assert not running.done()
    assert not world.service.cancelled
    world.gate.set()
    await running
    assert (world.begun, world.ended) == (["a", "b"], ["a", "b"])
    assert world.service.cancelled


async def test_cancelled_term_ends_no_reconcile() -> None:
    world = World()
    running = asyncio.create_task(world.term.run())
    world.controller.queue.add("a")
    await rest()
    running.cancel()
    await asyncio.wait([running])
    assert (world.begun, world.ended) == (["a"], [])
    assert world.service.cancelled
