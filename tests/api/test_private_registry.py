"""A registry of a private authority: its tags are resolved once for all nodes, as anybody's."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.fleet import Fleet, eventually
from support.privateregistry import PrivateRegistry, running_private_registry


@pytest.fixture
async def private(fleet: Fleet, tmp_path: Path) -> AsyncIterator[PrivateRegistry]:
    """One whose authority kmm-cp has been told of, which takes a restart."""
    settings = fleet.control_plane.settings
    async with running_private_registry(tmp_path) as running:
        settings["registry_ca"] = str(running.ca_file(tmp_path))
        await asyncio.to_thread(fleet.control_plane.restart)
        try:
            yield running
        finally:
            del settings["registry_ca"]
            await asyncio.to_thread(fleet.control_plane.restart)


async def test_tag_at_a_registry_of_a_private_authority_is_resolved_by_the_control_plane(
    fleet: Fleet, private: PrivateRegistry
) -> None:
    digest = private.registry.push("kmod", "1", [])
    node = await fleet.node()
    image = f"{private.registry.host}/kmod:1"
    await fleet.apply(container={"containerImage": image, "registryTLS": {}})

    async def planned() -> str | None:
        entries = await fleet.entries(node)
        return entries["m"].get("imageDigest", "") if "m" in entries else None

    assert await eventually(planned, lambda found: found is not None) == digest
    assert private.registry.count("manifests") == 1
