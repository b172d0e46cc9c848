"""What Flux makes of Modules in a git repository: a sync is healthy when they are, not before."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kmm_common.api.names import TOLERATED_FAILURES_ANNOTATION, Reason
from kmm_sandbox.kubeapi import Object
from support.cluster import Cluster
from support.fleet import Fleet, eventually
from support.flux import GitSource, flux_built, git_source, running_flux
from support.simkernel import failure

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3600)]
"""The first run on a machine compiles Flux's controller."""

SYMBOL = failure(Reason.UNKNOWN_SYMBOL, "Unknown symbol foo", retry=False)
TOLERANT = {"annotations": {TOLERATED_FAILURES_ANNOTATION: "1"}}


@pytest.fixture(scope="module")
def flux(kubernetes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    flux_built()
    with running_flux(kubernetes, tmp_path_factory.mktemp("flux")):
        yield


@pytest.fixture
async def source(
    flux: None, fleet: Fleet, kubernetes: Cluster, tmp_path: Path
) -> AsyncIterator[GitSource]:
    with git_source(kubernetes, fleet.name, tmp_path / "git") as made:
        await asyncio.to_thread(made.create, fleet.name)
        yield made
        await asyncio.to_thread(made.remove)


async def _sync(source: GitSource, revision: str, status: str, *, reason: str = "") -> Object:
    """Wait until Flux says this of a revision in the condition Ready; return the condition."""

    async def look() -> Object:
        found = await asyncio.to_thread(source.kustomization)
        status_ = found.get("status", {})
        ready = [each for each in status_.get("conditions", ()) if each["type"] == "Ready"]
        attempted = status_.get("lastAttemptedRevision")
        return {"revision": attempted, **(ready[0] if ready else {})}

    def holds(seen: Object) -> bool:
        right = (seen.get("revision"), seen.get("status")) == (revision, status)
        return right and reason in ("", seen["reason"])

    return await eventually(look, holds, what=f"Ready={status} {reason} of {revision}")


async def test_module_that_fails_beyond_its_tolerance_makes_the_sync_unhealthy_until_it_is_fixed(
    source: GitSource, fleet: Fleet
) -> None:
    nodes = [await fleet.node(name) for name in "ab"]
    for node in nodes:
        node.kernel.failing[fleet.ref()] = deque([SYMBOL])
    revision = await asyncio.to_thread(source.commit, m=fleet.manifest(metadata=TOLERANT))
    unhealthy = await _sync(source, revision, "False", reason="HealthCheckFailed")
    # Flux names the object; why is what that says itself.
    assert "failed early due to stalled resources" in unhealthy["message"]
    assert f"Module/{fleet.name}/m status: 'Failed'" in unhealthy["message"]
    stalled = (await fleet.conditions())["Stalled"]
    assert stalled["status"] == "True"
    assert "2 failed" in stalled["message"]
    assert "Unknown symbol foo" in stalled["message"]
    fixed = fleet.manifest(metadata=TOLERANT, modprobe={"parameters": ["fixed=1"]})
    revision = await asyncio.to_thread(source.commit, m=fixed)
    await _sync(source, revision, "True")
    for node in nodes:
        assert node.kernel.parameters["m"] == ("fixed=1",)


async def test_sync_is_healthy_within_the_tolerance(source: GitSource, fleet: Fleet) -> None:
    bad, good = await fleet.node("a"), await fleet.node("b")
    bad.kernel.failing[fleet.ref()] = deque([SYMBOL])
    revision = await asyncio.to_thread(source.commit, m=fleet.manifest(metadata=TOLERANT))
    await _sync(source, revision, "True")
    assert "m" in good.kernel.rows
    assert "m" not in bad.kernel.rows


async def test_module_just_applied_or_changed_is_not_healthy_before_it_is_loaded(
    source: GitSource, fleet: Fleet
) -> None:
    node = await fleet.node()
    for parameter in ("speed=1", "speed=2"):
        gate = node.kernel.gates[fleet.ref()] = asyncio.Event()
        loads = node.kernel.loads(fleet.ref())
        manifest = fleet.manifest(modprobe={"parameters": [parameter]})
        revision = await asyncio.to_thread(source.commit, m=manifest)
        await eventually(
            lambda: asyncio.sleep(0, node.kernel.loads(fleet.ref())),
            loads.__lt__,
        )
        await _sync(source, revision, "Unknown", reason="Progressing")
        gate.set()
        await _sync(source, revision, "True")
        assert node.kernel.parameters["m"] == (parameter,)
