"""Pods of a test on real nodes, and what became of them."""

from collections.abc import Sequence
from typing import Any

from kmm_sandbox.cluster.cluster import Cluster
from kmm_sandbox.cluster.images import BUSYBOX
from kmm_sandbox.processes import wait_until

SECONDS = 180.0
DAEMON_SETS = "/apis/apps/v1/namespaces/default/daemonsets"
PODS = "/api/v1/namespaces/default/pods"


def pod_spec(*argv: str, **more: Any) -> dict[str, Any]:
    """Return the spec of a Pod of one busybox container."""
    container = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": [*argv]}
    return {"containers": [container], "terminationGracePeriodSeconds": 0, **more}


def create(cluster: Cluster, name: str, spec: dict[str, Any]) -> None:
    """Create a Pod."""
    cluster.api.create(PODS, {"metadata": {"name": name}, "spec": spec})


def wait_until_running(cluster: Cluster, name: str) -> None:
    """Wait until a Pod runs."""
    wait_until(lambda: _phase(cluster, name) == "Running", seconds=SECONDS, what=f"Pod {name}")


def run_to_end(cluster: Cluster, name: str, spec: dict[str, Any]) -> str:
    """Create a Pod, wait until it has succeeded, return what it printed; the Pod goes."""
    create(cluster, name, {"restartPolicy": "Never", **spec})
    wait_until(lambda: _phase(cluster, name) == "Succeeded", seconds=SECONDS, what=f"Pod {name}")
    printed = cluster.kubectl("logs", name)
    delete(cluster, [name])
    return printed


def delete(cluster: Cluster, names: Sequence[str]) -> None:
    """Delete Pods and wait until they are gone."""
    for name in names:
        cluster.api.delete(f"{PODS}/{name}")
    wait_until(
        lambda: all(cluster.api.find(f"{PODS}/{name}") is None for name in names),
        seconds=SECONDS,
        what=f"end of {', '.join(names)}",
    )


def create_daemon_set(cluster: Cluster, name: str, spec: dict[str, Any]) -> None:
    """Create a DaemonSet whose Pods have its name as the label `app`."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": spec}
    content = {"selector": {"matchLabels": labels}, "template": template}
    cluster.api.create(DAEMON_SETS, {"metadata": {"name": name}, "spec": content})


def delete_daemon_set(cluster: Cluster, name: str) -> None:
    """Delete a DaemonSet and wait until its Pods are gone."""
    cluster.api.delete(f"{DAEMON_SETS}/{name}")
    wait_until(
        lambda: cluster.api.items(_of(name)) == [], seconds=SECONDS, what=f"end of Pods of {name}"
    )


def running_on(cluster: Cluster, name: str) -> list[str]:
    """Return the nodes on which a DaemonSet's Pods run."""
    pods = cluster.api.items(_of(name))
    return [pod["spec"]["nodeName"] for pod in pods if pod["status"]["phase"] == "Running"]


def container_ids(cluster: Cluster, name: str) -> dict[str, str]:
    """Return the running container of each of a DaemonSet's Pods, by the Pod's node."""
    return {
        pod["spec"]["nodeName"]: status["containerID"]
        for pod in cluster.api.items(_of(name))
        for status in pod["status"].get("containerStatuses", ())
        if "running" in status["state"]
    }


def _of(name: str) -> str:
    return f"{PODS}?labelSelector=app%3D{name}"


def _phase(cluster: Cluster, name: str) -> str:
    cluster.require_alive()
    phase = str(cluster.api.get(f"{PODS}/{name}")["status"].get("phase", ""))
    assert phase != "Failed", cluster.kubectl("describe", "pod", name)
    return phase
