"""KMM's own images from the shipped manifests, on nodes with real kubelets."""

from typing import Any

import pytest

from kmm_common.api import names
from kmm_sandbox import samples
from kmm_sandbox.cluster.cluster import HOST_NODE, Cluster
from kmm_sandbox.kubelet import NAMESPACE
from kmm_sandbox.outcome import Outcome
from kmm_sandbox.processes import wait_until
from support.stage import push_own
from support.workloads import SECONDS

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1500)]

PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
LABEL = "app.kubernetes.io/name"


def test_control_plane_is_on_the_node_without_taint_and_daemons_have_enrolled_from_the_others(
    kmm_cluster: Cluster,
) -> None:
    cluster = kmm_cluster
    assert {node for node, _ in pods(cluster, "kmm-cp")} == {HOST_NODE}
    daemons = dict(pods(cluster, "kmm-daemon"))
    assert daemons.keys() == cluster.nodes.keys()
    # The Pod that the control plane says a session has is the one that its certificate names.
    assert {name: session(cluster, name)["podName"] for name in daemons} == daemons


def test_a_module_is_loaded_again_after_a_power_cut_and_gone_when_it_is_deleted(
    kmm_cluster: Cluster,
) -> None:
    cluster = kmm_cluster
    image = samples.push(cluster, "ppp", ("ppp_generic",))
    outcome = applied(cluster, "ppp", "ppp_generic", image)
    outcome.wait_loaded()
    outcome.wait_settled()

    name = next(iter(cluster.nodes))
    cluster.power_cycle(name)
    boot = cluster.node_info(name)["bootID"]
    outcome.wait_loaded_since(name, boot)

    deleted(cluster, outcome)


def test_a_changed_parameter_reaches_both_kernels(kmm_cluster: Cluster) -> None:
    cluster = kmm_cluster
    image = push_own(cluster, "core", "kmt_core")
    for value in ("1", "2"):
        outcome = applied(cluster, "core", "kmt_core", image, f"exit_delay_ms={value}")
        outcome.wait_loaded()
        assert {parameter(cluster, name) for name in cluster.nodes} == {value}
    deleted(cluster, outcome)


@pytest.mark.parametrize(
    "workload", ["deployments/kmm-cp", "daemonsets/kmm-daemon"], ids=["control-plane", "daemons"]
)
def test_a_rollout_replaces_every_pod_and_reloads_nothing(
    kmm_cluster: Cluster, workload: str
) -> None:
    cluster, app = kmm_cluster, workload.rpartition("/")[2]
    outcome = applied(cluster, "slip", "slip", samples.push(cluster, "slip", ("slip",)))
    outcome.wait_loaded()
    before = {name for _, name in pods(cluster, app)}
    loads = {name: load_of(cluster, name, "slip") for name in cluster.nodes}

    cluster.kubectl("-n", NAMESPACE, "rollout", "restart", workload)

    wait_until(
        lambda: rolled_out(cluster, workload) and not before & {n for _, n in pods(cluster, app)},
        seconds=SECONDS,
        what=f"new Pods of {app}",
    )
    daemons = dict(pods(cluster, "kmm-daemon"))
    wait_until(
        lambda: {name: session(cluster, name)["podName"] for name in daemons} == daemons,
        seconds=SECONDS,
        what="sessions of the Pods that run",
    )
    outcome.wait_loaded()
    assert {name: load_of(cluster, name, "slip") for name in cluster.nodes} == loads
    deleted(cluster, outcome)


def test_a_killed_daemon_is_started_again_in_its_pod_and_reloads_nothing(
    kmm_cluster: Cluster,
) -> None:
    cluster, name = kmm_cluster, next(iter(kmm_cluster.nodes))
    outcome = applied(cluster, "slip", "slip", samples.push(cluster, "slip", ("slip",)))
    outcome.wait_loaded()
    before, load = session(cluster, name), load_of(cluster, name, "slip")

    cluster.nodes[name].execute("pkill", "-KILL", "-f", "/etc/kmm/daemon.json").check()

    wait_until(
        lambda: session(cluster, name)["instance"] != before["instance"],
        seconds=SECONDS,
        what="session of the next daemon",
    )
    assert session(cluster, name)["podName"] == before["podName"]
    outcome.wait_loaded()
    assert load_of(cluster, name, "slip") == load
    deleted(cluster, outcome)


def applied(
    cluster: Cluster, name: str, kernel_module: str, image: str, *parameters: str
) -> Outcome:
    """Apply a Module for the nodes with kernels of their own."""
    manifest = samples.module(name, image, kernel_module, parameters, placement=cluster.placement)
    cluster.kubectl.apply(manifest)
    return Outcome(cluster, name, kernel_module)


def deleted(cluster: Cluster, outcome: Outcome) -> None:
    """Delete a Module and wait until nothing knows it."""
    cluster.kubectl("delete", "module", outcome.name, "--wait=false")
    outcome.wait_gone()


def parameter(cluster: Cluster, node: str) -> str:
    """Return a parameter as the kernel has it."""
    path = "/sys/module/kmt_core/parameters/exit_delay_ms"
    return cluster.nodes[node].execute("cat", path).check().strip()


def load_of(cluster: Cluster, node: str, module: str) -> str:
    """Return what is another after an unload and a load: the directory that the kernel has made."""
    return cluster.nodes[node].execute("stat", "-c", "%i", f"/sys/module/{module}").check()


def rolled_out(cluster: Cluster, workload: str) -> bool:
    """Tell whether the newest revision is all that there is of a Deployment or a DaemonSet."""
    cluster.require_alive()
    found = cluster.api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/{workload}")
    status = found["status"]
    wanted = status.get("desiredNumberScheduled", found["spec"].get("replicas"))
    updated = status.get("updatedNumberScheduled", status.get("updatedReplicas"))
    ready = status.get("numberReady", status.get("readyReplicas"))
    current = status["observedGeneration"] == found["metadata"]["generation"]
    return bool(current and updated == ready == wanted)


def pods(cluster: Cluster, app: str) -> list[tuple[str, str]]:
    """Return node and name of the Pods of a program that run."""
    found = cluster.api.items(f"{PODS}?labelSelector={LABEL.replace('/', '%2F')}%3D{app}")
    return [
        (pod["spec"]["nodeName"], pod["metadata"]["name"])
        for pod in found
        if pod["status"]["phase"] == "Running"
    ]


def session(cluster: Cluster, node: str) -> dict[str, Any]:
    """Return what the control plane says of a node's daemon."""
    path = f"/apis/{names.API_VERSION}/{names.NODE_MODULES_STATES}/{node}"
    said: dict[str, Any] = cluster.api.get(path)["status"]["daemon"]
    return said
