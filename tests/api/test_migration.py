"""Device plugins' DaemonSets of upstream KMM are taken over as docs/how-to/migrate.md says."""

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from kmm_sandbox.kubeapi import Object
from kmm_sandbox.processes import wait_until
from support.cluster import Cluster, running_cluster
from support.docpages import DOCS
from support.installation import yaml_block

PAGE = DOCS / "how-to/migrate.md"
READY = "kmm.node.kubernetes.io/default.my-driver.ready"
SELECTOR = {"accelerator": "present"}
NODE = "/api/v1/nodes/a"
DAEMON_SETS = "/apis/apps/v1/namespaces/default/daemonsets"
DAEMON_SET = f"{DAEMON_SETS}/plugin"
OWNER = "/api/v1/namespaces/default/configmaps/owner"
LEFT_TO_OWNER = "/api/v1/namespaces/default/configmaps/left"
PODS = "/api/v1/namespaces/default/pods"
SECONDS = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One with a node that has the ready label, and a DaemonSet as upstream makes it."""
    with running_cluster(tmp_path_factory.mktemp("migration")) as running:
        labels = {READY: "", **SELECTOR}
        running.api.ensure("/api/v1/nodes", {"metadata": {"name": "a", "labels": labels}})
        running.api.ensure("/api/v1/namespaces/default/configmaps", {"metadata": {"name": "owner"}})
        uid = running.api.get(OWNER)["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
        left = {"metadata": {"name": "left", "ownerReferences": [owner]}}
        running.api.ensure("/api/v1/namespaces/default/configmaps", left)
        running.api.ensure(DAEMON_SETS, _of_upstream(owner))
        yield running


def _of_upstream(reference: Object) -> Object:
    """Return what upstream makes of `devicePlugin`; a ConfigMap stands for the Module."""
    labels = {"kmm.node.kubernetes.io/module.name": "my-driver"}
    metadata = {"labels": labels, "finalizers": ["kmm.node.kubernetes.io/node-labeler"]}
    containers = [{"name": "plugin", "image": "registry.example/plugin:1"}]
    return {
        "metadata": {"name": "plugin", "labels": labels, "ownerReferences": [reference]},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": metadata,
                "spec": {"nodeSelector": {READY: ""}, "containers": containers},
            },
        },
    }


def _filled_in(text: str) -> str:
    """Return what the page shows with this DaemonSet's names."""
    names = {"NAMESPACE.MODULE": "default.my-driver", "KEY": "accelerator", "VALUE": "present"}
    for name, ours in names.items():
        text = text.replace(name, ours)
    return text


def _pod(cluster: Cluster) -> Object:
    """Return the DaemonSet's only Pod, when the controller has seen its newest template."""

    def is_seen() -> bool:
        now = cluster.api.get(DAEMON_SET)
        status = now["status"]
        seen: bool = status.get("observedGeneration") == now["metadata"]["generation"]
        return seen and status["desiredNumberScheduled"] == 1 and bool(cluster.api.items(PODS))

    wait_until(is_seen, seconds=SECONDS, what="a DaemonSet that wants its Pod")
    (pod,) = cluster.api.items(PODS)
    return pod


def test_pods_of_a_device_plugin_stay_whatever_becomes_of_label_and_module(
    cluster: Cluster,
) -> None:
    before = _pod(cluster)["metadata"]["uid"]
    patch: Any = yaml.safe_load(_filled_in(yaml_block(PAGE, "type: OnDelete")))
    cluster.api.merge(DAEMON_SET, patch)
    _pod(cluster)
    cluster.api.merge(NODE, {"metadata": {"labels": {READY: None}}})
    cluster.api.delete(OWNER)
    wait_until(
        lambda: cluster.api.find(LEFT_TO_OWNER) is None,
        seconds=SECONDS,
        what="the collection of what still has the owner",
    )
    # Another change by which the controller shows that it has seen the node without the label.
    cluster.api.merge(DAEMON_SET, {"spec": {"minReadySeconds": 1}})
    kept = _pod(cluster)["metadata"]
    assert (kept["uid"], kept.get("deletionTimestamp")) == (before, None)

    cluster.api.merge(NODE, {"metadata": {"labels": {READY: ""}}})
    (line,) = [each for each in PAGE.read_text().splitlines() if '"KEY":null' in each]
    (back,) = [each for each in shlex.split(line) if each.startswith("--patch=")]
    cluster.api.merge(DAEMON_SET, yaml.safe_load(_filled_in(back.removeprefix("--patch="))))
    again = _pod(cluster)["metadata"]
    assert (again["uid"], again.get("deletionTimestamp")) == (before, None)
    spec = cluster.api.get(DAEMON_SET)["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {READY: ""}
