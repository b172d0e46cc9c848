"""An installation over its life, as the docs have it: nodes keep what they have, or lose it all.

The overlay's objects are on a real API server with its controllers; kmm-cp and the daemons' agents
are real, and the DaemonSet's Pods say which of them run.
"""

import asyncio
import http
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kmm_sandbox.kubeapi import ApiError
from kmm_sandbox.processes import wait_until
from support.certificates import NAMESPACE
from support.cluster import CRDS, Cluster, running_cluster
from support.daemonpods import PodNode, kubelets, started
from support.docsteps import arguments, commands
from support.fleet import DEADLINE, KMM, Fleet, running_fleet
from support.installation import REPOSITORY, Installation, documented, installed, inventory
from support.kmmcp import KmmCp, new_control_plane

UNINSTALL = REPOSITORY / "docs/how-to/uninstall.md"
OVERLAY = "builtin-ca"
RESOURCES = ("modules", "nodemodulesstates")
NAME = "lifecycle"
"""Also in the name of whatever is not KMM's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """Two nodes with one Module under an installation."""

    installation: Installation
    fleet: Fleet
    control_plane: KmmCp
    before: set[str]
    """What the API server had before it."""

    @property
    def cluster(self) -> Cluster:
        return self.installation.cluster

    async def follow(self, heading: str) -> None:
        """Run the commands of a section of the docs, for the fleet's Module."""
        for command in commands(UNINSTALL, heading):
            if command == "kubectl delete --ignore-not-found -k .":
                # Its Pods end while this goes on, and what it asks meanwhile is refused.
                await asyncio.to_thread(self.control_plane.stop)
                await asyncio.to_thread(self.installation.delete)
                continue
            own = command.replace("NAMESPACE", self.fleet.name).replace("NAME", "m")
            await asyncio.to_thread(self.cluster.kubectl, *arguments(own))
            if "delete deployment" in own:
                await asyncio.to_thread(self.control_plane.stop)

    async def nothing_is_left(self) -> None:
        """Check that the API server has nothing of KMM any more, nor a label of its own."""
        after = await asyncio.to_thread(inventory, self.cluster)
        assert not [line for line in after - self.before if NAME not in line]
        assert not [line for line in after if "kmm" in line]
        for node in self.fleet.nodes.values():
            assert not [label for label in await self.fleet.labels(node) if "kmm" in label]
        namespace = await self.fleet.find(f"/api/v1/namespaces/{self.fleet.name}")
        assert namespace is not None
        assert not [label for label in namespace["metadata"]["labels"] if "kmm" in label]


@pytest.fixture
async def life(tmp_path: Path) -> AsyncIterator[Installed]:
    """Everything as an administrator has it; on a cluster of its own, since all of it goes."""
    with running_cluster(tmp_path / "cluster") as cluster:
        before = inventory(cluster)
        with installed(Installation.render(cluster, OVERLAY)) as installation:
            plane = as_its_pod_would(installation, tmp_path)
            try:
                async with alive(installation, plane, tmp_path, before) as made:
                    yield made
                assert plane.refusals() == set()
            finally:
                plane.close()


@asynccontextmanager
async def alive(
    installation: Installation, plane: KmmCp, directory: Path, before: set[str]
) -> AsyncIterator[Installed]:
    async with (
        running_fleet(plane, NAME, directory / "nodes", node_type=PodNode) as fleet,
        kubelets(fleet),
    ):
        for name in "ab":
            await fleet.node(name, daemon=False)
        await fleet.apply()
        await fleet.loaded()
        try:
            yield Installed(
                installation=installation, fleet=fleet, control_plane=plane, before=before
            )
        finally:
            await asyncio.to_thread(define_again, installation.cluster)


def define_again(cluster: Cluster) -> None:
    """Have the resources served that the fleet looks for at its end."""
    cluster.kubectl.apply_crds(sorted(CRDS.glob("*.yaml")))

    def listed() -> bool:
        try:
            return all(cluster.api.items(f"{KMM}/{each}") is not None for each in RESOURCES)
        except ApiError as error:
            # What was deleted a moment ago is being made ready again.
            if error.status != http.HTTPStatus.TOO_MANY_REQUESTS:
                raise
            return False

    wait_until(listed, seconds=DEADLINE, what="Modules and NodeModulesStates served again")


def as_its_pod_would(installation: Installation, directory: Path) -> KmmCp:
    """Return a control plane of an installation's settings; daemons have certificates already."""
    plane = new_control_plane(installation.cluster, directory)
    settings = installation.settings("kmm-cp")
    del settings["enrolment"]
    plane.settings = {**settings, **plane.settings}
    return plane


async def test_upgrade_replaces_every_daemon_and_touches_no_kernel(
    life: Installed, tmp_path: Path
) -> None:
    next_release = replace(life.installation, manifest=documented(OVERLAY, tmp_path))
    await asyncio.to_thread(next_release.apply)
    await asyncio.to_thread(life.control_plane.restart)
    nodes = life.fleet.nodes.values()
    for node in nodes:
        await started(node, 2)
    await life.fleet.reconciled()
    await life.fleet.loaded()
    for node in nodes:
        assert node.kernel.loads(life.fleet.ref()) == 1
        assert node.kernel.unloads(life.fleet.ref()) == 0
        pod = life.cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/pods/{node.pod}")
        assert "@sha256:" in pod["spec"]["containers"][0]["image"]


async def test_removal_in_the_order_of_the_docs_unloads_and_leaves_nothing(life: Installed) -> None:
    await life.follow("Unload everything")
    for node in life.fleet.nodes.values():
        assert node.kernel.rows == {}
        assert node.kernel.unloads(life.fleet.ref()) == 1
    await life.nothing_is_left()


async def test_removal_that_keeps_modules_unloads_none_and_leaves_nothing_else(
    life: Installed,
) -> None:
    await life.follow("Keep the modules loaded")
    for node in life.fleet.nodes.values():
        assert "m" in node.kernel.rows
        assert node.kernel.unloads(life.fleet.ref()) == 0
    await life.nothing_is_left()
