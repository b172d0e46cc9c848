"""A pull secret reaches the nodes that are meant to have it, and nobody else."""

import asyncio

import pytest

from kmm_common.desired import ModuleRef
from support.fleet import Fleet, eventually


async def test_pull_secret_goes_only_to_nodes_whose_state_refers_to_it(fleet: Fleet) -> None:
    meant, other = await fleet.node("a", labels={"secret": "yes"}), await fleet.node("b")
    await asyncio.to_thread(_make_secret, fleet)
    await fleet.apply(
        imageRepoSecret={"name": "pull"}, selector={"fleet": fleet.name, "secret": "yes"}
    )
    await fleet.apply("open")
    await fleet.loaded(meant)
    await fleet.loaded(other, name="open")
    assert other.link is not None
    [(ref, given)] = meant.images.credentials
    assert ref == fleet.ref()
    assert [(one.registry, one.username) for one in given] == [("registry.test", "robot")]
    for asked in (fleet.ref("m"), fleet.ref("open"), ModuleRef("elsewhere", "m")):
        with pytest.raises(Exception, match=r"no pull secret of Module .* is meant for this node"):
            await other.link.fetch(asked, refresh=False)
    assert "s3cret-of-robot" not in fleet.control_plane.log.read_text()


async def test_pull_secret_that_is_missing_is_named(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply(imageRepoSecret={"name": "nowhere"})
    await eventually(
        lambda: fleet.reports(node),
        lambda reports: (
            f"Secret {fleet.name}/nowhere does not exist"
            in reports.get("m", {}).get("error", {}).get("message", "")
        ),
    )


def _make_secret(fleet: Fleet) -> None:
    config = '{"auths": {"registry.test": {"username": "robot", "password": "s3cret-of-robot"}}}'
    fleet.api.create(
        f"/api/v1/namespaces/{fleet.name}/secrets",
        {
            "metadata": {"name": "pull"},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": config},
        },
    )
