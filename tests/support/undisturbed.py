"""What goes wrong with one Module or peer, held against a node that must not notice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.fleet import Fleet
from support.simnode import SimNode


@asynccontextmanager
async def undisturbed(fleet: Fleet) -> AsyncIterator[SimNode]:
    """Load a Module before; another one must be loaded after, over the same session."""
    node = await fleet.node("honest")
    await fleet.apply("before")
    await fleet.loaded(node, name="before")
    yield node
    await fleet.apply("after")
    await fleet.loaded(node, name="after")
    assert len(fleet.control_plane.told("session opened", node=node.name)) == 1
    assert node.kernel.loads(fleet.ref("before")) == 1
    assert fleet.control_plane.alive
