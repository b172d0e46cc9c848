"""Another KMM on the same Modules: upstream's, or the copy that the AMD GPU operator brings."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kmm_cp.policy.neighbours import LEASE
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.manifests import Kubectl
from kmm_sandbox.programs import GROUPS, USER
from support.certificates import NAMESPACE
from support.cluster import Cluster
from support.fleet import eventually
from support.kmmcp import KmmCp, new_control_plane, prepare_cluster

HOLDER = "{}-7c9d8f6b5d-x2x4z_0b6d5a3e-7f53-4c07-8f53-9a4f3c1b2d3e"
UPSTREAM, AMD = "kmm-operator-controller", "amd-gpu-operator-kmm-controller"


@pytest.fixture
def starting(kubernetes: Cluster, tmp_path: Path) -> Iterator[KmmCp]:
    """A control plane of its own, not started, in the cluster of the others."""
    prepare_cluster(kubernetes)
    control_plane = new_control_plane(kubernetes, tmp_path)
    control_plane.settings["replica"] = "neighbour"
    yield control_plane
    control_plane.close()


@asynccontextmanager
async def lease(cluster: Cluster, namespace: str, holder: str) -> AsyncIterator[asyncio.Event]:
    """Hold upstream's Lease in a namespace and renew it as upstream does while the event is set."""
    renews = asyncio.Event()
    renews.set()
    await asyncio.to_thread(
        cluster.api.ensure, "/api/v1/namespaces", {"metadata": {"name": namespace}}
    )
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    body = {"metadata": {"name": LEASE}, "spec": _spec(holder)}
    await asyncio.to_thread(cluster.api.create, leases, body)
    renewing = asyncio.create_task(_renew(cluster, f"{leases}/{LEASE}", holder, renews))
    try:
        yield renews
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        await asyncio.to_thread(cluster.api.delete, f"{leases}/{LEASE}")


async def _renew(cluster: Cluster, path: str, holder: str, renews: asyncio.Event) -> None:
    while True:
        await asyncio.sleep(1.0)
        await renews.wait()
        await asyncio.to_thread(cluster.api.merge, path, {"spec": _spec(holder)})


def _spec(holder: str) -> dict[str, object]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"holderIdentity": holder, "renewTime": now, "leaseDurationSeconds": 15}


async def refused(control_plane: KmmCp) -> str:
    """Start it and wait until it has ended; return what it says."""
    await asyncio.to_thread(control_plane.launch)

    async def ended() -> bool:
        return not control_plane.alive

    await eventually(ended, what="the refusal")
    assert control_plane.process is not None
    assert control_plane.process.exit_code == 1
    return control_plane.log.read_text()


@pytest.mark.parametrize(
    ("namespace", "deployment"),
    [("upstream-kmm", UPSTREAM), ("kube-amd-gpu", AMD)],
    ids=["upstream", "AMD"],
)
async def test_start_is_refused_beside_another_kmm_which_is_named_with_what_to_do(
    starting: KmmCp, namespace: str, deployment: str
) -> None:
    cluster = starting.cluster
    async with lease(cluster, namespace, HOLDER.format(deployment)):
        told = await refused(starting)
    assert f"kmm-cp: another KMM is active: Deployment {namespace}/{deployment} holds" in told
    assert f"`kubectl scale deployment -n {namespace} {deployment} --replicas=0`" in told
    assert "kmm.enabled=false" in told
    assert "vmodule.kb.io" in told
    assert "Traceback" not in told
    path = f"/api/v1/namespaces/{NAMESPACE}/events"
    events = await asyncio.to_thread(cluster.api.items, path)
    assert [e for e in events if e["reason"] == "AnotherKMM" and deployment in e["message"]]


async def test_lease_that_nobody_renews_any_more_delays_the_start_only(starting: KmmCp) -> None:
    async with lease(starting.cluster, "left-behind", HOLDER.format(UPSTREAM)) as renews:
        renews.clear()
        await asyncio.to_thread(starting.start)
    assert starting.told("nobody renews the lease of another KMM")
    assert await asyncio.to_thread(starting.stop) == 0


async def test_start_beside_another_kmm_can_be_asked_for(starting: KmmCp) -> None:
    starting.settings["neighbours"] = "warn"
    async with lease(starting.cluster, "tolerated", HOLDER.format(UPSTREAM)):
        await asyncio.to_thread(starting.start)
    assert await asyncio.to_thread(starting.stop) == 0


async def test_no_other_lease_of_the_cluster_is_seen(starting: KmmCp) -> None:
    cluster = starting.cluster
    kubectl = Kubectl(
        program=cluster.kubectl.program, kubeconfig=cluster.kubeconfig_for(USER, GROUPS)
    )
    by_name = ("get", "leases", "-A", "--field-selector", f"metadata.name={LEASE}")
    await asyncio.to_thread(kubectl, *by_name)
    with pytest.raises(SandboxError, match="forbidden"):
        await asyncio.to_thread(kubectl, "get", "leases", "-A")
