"""A fleet under two replicas, each with a way of its own to the API server that can be broken."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from kmm_sandbox.programs import GROUPS, USER
from support.balancer import Balancer
from support.cluster import Cluster
from support.faultproxy import FaultProxy, proxied
from support.fleet import Fleet, eventually, running_fleet
from support.kmmcp import KmmCp
from support.replicas import PATIENT, Replicas, new_replicas
from support.simnode import SimNode

ALL = ("get", "list", "watch", "create", "update", "patch", "delete")
"""Every verb."""
_numbers = count(1)


@dataclass(slots=True, kw_only=True)
class Scene:
    """A fleet of two replicas; each has a way of its own to the API server."""

    fleet: Fleet[Replicas]
    replicas: Replicas
    ways: dict[str, FaultProxy] = field(default_factory=dict)
    value: int = 0

    async def leader(self) -> KmmCp:
        return await asyncio.to_thread(self.replicas.leader)

    def way(self, replica: KmmCp) -> FaultProxy:
        return self.ways[replica.name]

    async def leads(self, replica: KmmCp) -> None:
        """Wait until a replica leads; nobody else may at the same time."""

        async def look() -> bool:
            leading = await asyncio.to_thread(self.replicas.leading)
            assert len(leading) <= 1
            return leading == [replica]

        await eventually(look, what=f"{replica.name} leads", seconds=PATIENT)

    async def change(self) -> None:
        """Give Module m another parameter."""
        self.value += 1
        await self.fleet.set_parameters("m", f"speed={self.value}")

    async def arrived(self, *nodes: SimNode, seconds: float = PATIENT) -> None:
        """Wait until the last change is in the kernels."""
        for node in nodes or self.fleet.nodes.values():
            await eventually(
                partial(_parameters, node),
                lambda found: found == (f"speed={self.value}",),
                what=f"change {self.value} on {node.name}",
                seconds=seconds,
            )

    async def serves(self, replica: KmmCp) -> None:
        """Send all daemons to a replica."""
        self.replicas.balancer.ports = [replica.port]
        self.replicas.balancer.cut()
        names = {node.name for node in self.fleet.nodes.values()}
        await eventually(
            lambda: self.fleet.served(replica.name),
            lambda found: names <= found,
            what=f"all at {replica.name}",
            seconds=PATIENT,
        )


async def _parameters(node: SimNode) -> tuple[str, ...] | None:
    """Return the parameters that Module m has in a kernel; None if it is not there."""
    return node.kernel.parameters.get("m")


@asynccontextmanager
async def on_stage(
    cluster: Cluster, directory: Path, *, lease: dict[str, Any] | None = None
) -> AsyncIterator[Scene]:
    """Load Module m on three nodes under two replicas; at the end all must be well."""
    replicas = new_replicas(cluster, directory / "kmm-cp", lease=lease)
    async with AsyncExitStack() as stack:
        replicas.balancer = await stack.enter_async_context(Balancer(replicas.ports).run())
        stack.callback(replicas.close)
        ways = {}
        for each in replicas.all:
            through = proxied(cluster, each.directory, user=USER, groups=GROUPS)
            ways[each.name], kubeconfig = await stack.enter_async_context(through)
            each.settings["kubeconfig"] = str(kubeconfig)
        await asyncio.to_thread(replicas.start)
        name = f"s{next(_numbers)}"
        async with running_fleet(replicas, name, directory) as fleet:
            scene = Scene(fleet=fleet, replicas=replicas, ways=ways)
            await fleet.three()
            await fleet.apply()
            await fleet.loaded()
            yield scene
            await scene.change()
            await scene.arrived()
            await fleet.loaded()
        assert set(await asyncio.to_thread(replicas.stop)) <= {0}
