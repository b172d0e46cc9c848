"""Random histories of nodes and Modules end where a fresh control plane would have begun.

KMM_CONVERGENCE_SEED chooses the first history, KMM_CONVERGENCE_ROUNDS how many; a failure names the
seed and what was done.
"""

import asyncio
import os
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from kmm_common.api.names import Reason, parse_ready_label
from support.fleet import STATES, Fleet, eventually
from support.simkernel import KERNEL, failure
from support.simnode import SimNode

FIRST_SEED = int(os.environ.get("KMM_CONVERGENCE_SEED", "1"))
ROUNDS = int(os.environ.get("KMM_CONVERGENCE_ROUNDS", "3"))
STEPS = 25
LONGEST_PAUSE_SECONDS = 0.15
NEWER, UNMAPPED = "6.2.0-sim", "5.4.0-sim"
OUT = {"key": "example.test/out", "effect": "NoExecute"}
MODULES: dict[str, dict[str, Any]] = {
    "everywhere": {},
    "picky": {"tier": "gold"},
    "tolerant": {},
}
"""By name: labels that a node needs beside the fleet's."""


@dataclass
class Wish:
    """A Module as it was last applied."""

    parameter: str
    tag: str


@dataclass
class Story:
    """A fleet, what was done to it, and so what every node should have."""

    fleet: Fleet
    chance: random.Random
    wishes: dict[str, Wish] = field(default_factory=dict)
    gold: set[str] = field(default_factory=set)
    tainted: set[str] = field(default_factory=set)
    told: list[str] = field(default_factory=list)

    def expected(self, name: str) -> dict[str, tuple[str, ...]]:
        """Return the parameters of what a node's kernel should have, by kernel module."""
        if not self.fleet.nodes[name].kernel.kernel_version.startswith("6."):
            return {}
        return {
            module: (wish.parameter,)
            for module, wish in self.wishes.items()
            if not (MODULES[module] and name not in self.gold)
            and not (name in self.tainted and module != "tolerant")
        }

    async def step(self) -> None:
        """Do one thing to the fleet, and give it a moment or none."""
        name = self.chance.choice("abc")
        action = self.chance.choice(ACTIONS)
        self.told.append(f"{action.__name__} {name}")
        await action(self, self.fleet.nodes[name], name)
        await asyncio.sleep(self.chance.uniform(0, LONGEST_PAUSE_SECONDS))

    async def quiet(self) -> None:
        """Let every daemon run and every node take what is meant for it."""
        for node in self.fleet.nodes.values():
            await self.fleet.edit_node(node, {"spec": {"unschedulable": None}})
            node.kernel.failing.clear()
            if not node.running:
                await node.start()
        if not self.fleet.control_plane.alive:
            await asyncio.to_thread(self.fleet.control_plane.start)


Action = Callable[[Story, SimNode, str], Awaitable[None]]


async def create_or_change(story: Story, node: SimNode, name: str) -> None:
    module = story.chance.choice(list(MODULES))
    wish = Wish(f"p={story.chance.randint(1, 99)}", story.chance.choice("12"))
    image = story.fleet.image(tag=wish.tag)
    if module in story.wishes:
        container = {"modprobe": {"parameters": [wish.parameter]}, "containerImage": image}
        await story.fleet.edit(module, {"moduleLoader": {"container": container}})
    else:
        await story.fleet.gone(module)
        await story.fleet.apply(
            module,
            container={"containerImage": image},
            modprobe={"parameters": [wish.parameter]},
            selector={"fleet": story.fleet.name, **MODULES[module]},
            tolerations=[{"operator": "Exists"}] if module == "tolerant" else [],
        )
    story.wishes[module] = wish


async def delete(story: Story, node: SimNode, name: str) -> None:
    if story.wishes:
        module = story.chance.choice(list(story.wishes))
        await story.quiet()
        await story.fleet.delete(module)
        del story.wishes[module]


async def turn_gold(story: Story, node: SimNode, name: str) -> None:
    story.gold ^= {name}
    await story.fleet.set_label(node, "tier", "gold" if name in story.gold else None)


async def taint(story: Story, node: SimNode, name: str) -> None:
    story.tainted ^= {name}
    await story.fleet.edit_node(
        node, {"spec": {"taints": [OUT] if name in story.tainted else None}}
    )


async def cordon(story: Story, node: SimNode, name: str) -> None:
    await story.fleet.edit_node(
        node, {"spec": {"unschedulable": story.chance.choice((True, None))}}
    )


async def power_cycle(story: Story, node: SimNode, name: str) -> None:
    await node.reboot(kernel=story.chance.choice((KERNEL, KERNEL, NEWER, UNMAPPED)))


async def restart_daemon(story: Story, node: SimNode, name: str) -> None:
    await node.restart()


async def stop_daemon(story: Story, node: SimNode, name: str) -> None:
    await node.stop()


async def make_node_anew(story: Story, node: SimNode, name: str) -> None:
    await node.stop()
    await asyncio.to_thread(node.unregister)
    await asyncio.to_thread(node.register)
    story.gold -= {name}
    story.tainted -= {name}
    await node.start()


async def edit_state(story: Story, node: SimNode, name: str) -> None:
    path = f"{STATES}/{node.name}"
    if await story.fleet.find(path):
        await asyncio.to_thread(story.fleet.api.merge, path, {"spec": {"modules": []}})


async def delete_state(story: Story, node: SimNode, name: str) -> None:
    await asyncio.to_thread(story.fleet.api.delete, f"{STATES}/{node.name}")


async def falsify_label(story: Story, node: SimNode, name: str) -> None:
    label = story.fleet.label(story.chance.choice(list(MODULES)))
    await story.fleet.set_label(node, label, story.chance.choice(("", None)))


async def unload_by_hand(story: Story, node: SimNode, name: str) -> None:
    for module in list(node.kernel.rows):
        node.kernel.rmmod(module)


async def let_loads_fail(story: Story, node: SimNode, name: str) -> None:
    for module in MODULES:
        error = failure(Reason.DEVICE_ERROR, "No such device")
        node.kernel.failing[story.fleet.ref(module)] = deque([error] * 2)


async def kill_control_plane(story: Story, node: SimNode, name: str) -> None:
    await asyncio.to_thread(story.fleet.control_plane.kill)
    await asyncio.to_thread(story.fleet.control_plane.start)


ACTIONS: list[Action] = [
    *(create_or_change, create_or_change, create_or_change, delete, turn_gold, taint, cordon),
    *(power_cycle, restart_daemon, stop_daemon, make_node_anew, edit_state, delete_state),
    *(falsify_label, unload_by_hand, let_loads_fail, kill_control_plane),
]


async def sight(story: Story, name: str) -> dict[str, Any]:
    """Return what a node has: in its kernel, in its state, and as labels."""
    fleet, node = story.fleet, story.fleet.nodes[name]
    reports = await fleet.reports(node)
    found = (parse_ready_label(key) for key in await fleet.labels(node))
    return {
        "kernel": dict(node.kernel.parameters),
        "entries": set(await fleet.entries(node)),
        "loaded": {module for module, said in reports.items() if said["state"] == "Loaded"},
        "reports": set(reports),
        "labels": {ref[1] for ref in found if ref and ref[0] == fleet.name},
    }


def expectation(story: Story, name: str) -> dict[str, Any]:
    wanted = story.expected(name)
    names = set(wanted)
    return {"kernel": wanted, **dict.fromkeys(("entries", "loaded", "reports", "labels"), names)}


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + ROUNDS))
async def test_any_history_ends_where_a_fresh_control_plane_would_have_begun(
    fleet: Fleet, seed: int
) -> None:
    fleet.push(tag="2", content="two")
    story = Story(fleet, random.Random(seed))  # noqa: S311 a seed, no secret
    await fleet.three()
    for _ in range(STEPS):
        await story.step()
    await story.quiet()
    if not story.wishes:
        await create_or_change(story, fleet.nodes["a"], "a")
    for name in fleet.nodes:
        await eventually(
            partial(sight, story, name),
            expectation(story, name).__eq__,
            what=f"seed {seed}, {name} should be {expectation(story, name)} after {story.told}",
        )
    await fleet.settled()
    # Twice: what waits for Modules that are gone counts the first time.
    await fleet.reconciled(modules=len(story.wishes))
    await fleet.reconciled(modules=len(story.wishes))
    before = await statuses(story)
    start = fleet.audit_position()
    await asyncio.to_thread(fleet.control_plane.restart)
    await fleet.reconciled()
    assert await statuses(story) == before, f"seed {seed}: after {story.told}"
    assert fleet.writes(start) == [], f"seed {seed}: a fresh control plane thinks otherwise"


async def statuses(story: Story) -> dict[str, Any]:
    """Return what is said of every Module."""
    return {name: (await story.fleet.module(name) or {}).get("status") for name in story.wishes}
