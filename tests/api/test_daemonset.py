"""The daemon's DaemonSet, made and kept by the leader on a real API server with its controllers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmm_cp.policy.daemonset import MIN_READY_SECONDS
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.processes import wait_until
from support.certificates import NAMESPACE
from support.cluster import Cluster, running_cluster
from support.replicas import PATIENT, Replicas, new_replicas
from support.rights import AGENT, LEADER

MANIFEST = Path(__file__).resolve().parents[2] / "manifests/base/daemon/podtemplate.yaml"
APPS = f"/apis/apps/v1/namespaces/{NAMESPACE}"
DAEMON_SETS = f"{APPS}/daemonsets"
DAEMON_SET = f"{DAEMON_SETS}/kmm-daemon"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
TEMPLATE = f"/api/v1/namespaces/{NAMESPACE}/podtemplates/kmm-daemon"
SETTINGS = {"daemon_daemonset": "kmm-daemon", "daemon_template": "kmm-daemon"}
NODE = {"metadata": {"name": "a", "labels": {"kubernetes.io/os": "linux"}}}
VIRTUAL_NODE = {
    "metadata": {"name": "b", "labels": {"kubernetes.io/os": "linux", "type": "virtual-kubelet"}}
}
"""One on which no daemon could run: it must get no Pod."""
RESTARTED = "kubectl.kubernetes.io/restartedAt"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for these tests: no others have the DaemonSet in their namespace."""
    with running_cluster(tmp_path_factory.mktemp("daemonset")) as running:
        running.api.ensure("/api/v1/nodes", NODE)
        running.api.ensure("/api/v1/nodes", VIRTUAL_NODE)
        yield running


@pytest.fixture
def replicas(cluster: Cluster, tmp_path: Path) -> Iterator[Replicas]:
    """Two, over what an administrator applies; they must end well and with enough rights."""
    made = new_replicas(cluster, tmp_path)
    for each in made.all:
        each.settings |= SETTINGS
    own_deployment(cluster)
    cluster.kubectl("apply", "-f", str(MANIFEST))
    try:
        made.start()
        yield made
        assert set(made.stop()) <= {0}
        assert made.all[0].refusals() == set()
    finally:
        made.close()
        cluster.api.delete(DAEMON_SET)
        wait_until(lambda: found(cluster) is None, seconds=PATIENT, what="no DaemonSet")


def own_deployment(cluster: Cluster) -> Object:
    """Make the control plane's Deployment; its replicas are this test's processes."""
    labels = {"app": "kmm-cp"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "c"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod}
    cluster.api.ensure(f"{APPS}/deployments", {"metadata": {"name": "kmm-cp"}, "spec": spec})
    return cluster.api.get(f"{APPS}/deployments/kmm-cp")


def found(cluster: Cluster) -> Object | None:
    return cluster.api.find(DAEMON_SET)


def eventually(cluster: Cluster, right: Callable[[Object], bool], what: str) -> Object:
    """Wait for a DaemonSet that is right; return it."""

    def holds() -> bool:
        now = found(cluster)
        return now is not None and right(now)

    wait_until(holds, seconds=PATIENT, what=what)
    return cluster.api.get(DAEMON_SET)


def image(daemon_set: Object) -> str:
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    return str(container["image"])


def set_image(cluster: Cluster, name: str) -> None:
    """Change the template, as an administrator's overlay does."""
    template: Any = yaml.safe_load(MANIFEST.read_text())
    template["template"]["spec"]["containers"][0]["image"] = name
    cluster.kubectl.apply(yaml.safe_dump(template))


def position(cluster: Cluster) -> int:
    return cluster.audit_log.stat().st_size


def writes(replicas: Replicas, since: int) -> list[str]:
    """Return the verbs of what replicas wrote to DaemonSets."""
    return [
        line["verb"]
        for line in replicas.audited(since)
        if line["objectRef"]["resource"] == "daemonsets"
        and line["verb"] not in ("get", "list", "watch")
        and line.get("userAgent") in (AGENT, LEADER)
    ]


def its_pod(cluster: Cluster) -> None:
    """Wait until the real controller has made a Pod of it, and wants no other."""
    wait_until(lambda: len(cluster.api.items(PODS)) == 1, seconds=PATIENT, what="a daemon's Pod")
    eventually(cluster, lambda now: now["status"]["desiredNumberScheduled"] == 1, "one wanted Pod")


def test_leader_makes_it_once_and_it_belongs_to_the_deployment(
    cluster: Cluster, replicas: Replicas
) -> None:
    made = eventually(cluster, lambda _: True, "a DaemonSet")
    (owner,) = made["metadata"]["ownerReferences"]
    uid = own_deployment(cluster)["metadata"]["uid"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Deployment", "kmm-cp", uid)
    assert made["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == "10%"
    assert made["spec"]["minReadySeconds"] == MIN_READY_SECONDS
    its_pod(cluster)
    events = cluster.api.items(f"/api/v1/namespaces/{NAMESPACE}/events")
    assert [one for one in events if one["reason"] == "DaemonSetWritten"]


def test_nothing_is_written_for_its_status_or_for_another_leader(
    cluster: Cluster, replicas: Replicas
) -> None:
    eventually(cluster, lambda _: True, "a DaemonSet")
    its_pod(cluster)
    since = position(cluster)
    old = replicas.leader()
    old.stop()
    leader = replicas.leader()
    assert leader is not old
    wait_until(
        lambda: leader.reconciles()["daemonset"] > 0, seconds=PATIENT, what="a look by the next one"
    )
    assert writes(replicas, since) == []
    set_image(cluster, "kmm-daemon:next")
    eventually(cluster, lambda now: image(now) == "kmm-daemon:next", "the template's image")
    assert writes(replicas, since) == ["update"]


def test_changed_template_reaches_it_and_its_pods(cluster: Cluster, replicas: Replicas) -> None:
    eventually(cluster, lambda now: image(now) == "kmm-daemon", "the manifest's image")
    its_pod(cluster)
    since = position(cluster)
    set_image(cluster, "registry.example/kmm-daemon@sha256:" + "1" * 64)
    eventually(cluster, lambda now: "@sha256:" in image(now), "the template's image")
    wait_until(
        lambda: any(
            "@sha256:" in p["spec"]["containers"][0]["image"] for p in cluster.api.items(PODS)
        ),
        seconds=PATIENT,
        what="a Pod of the new image",
    )
    assert writes(replicas, since) == ["update"]


def test_change_by_hand_is_put_right_and_a_restart_is_not(
    cluster: Cluster, replicas: Replicas
) -> None:
    eventually(cluster, lambda _: True, "a DaemonSet")
    pod = {"nodeSelector": {"theirs": ""}, "hostNetwork": False}
    patch = {"metadata": {"annotations": {"theirs": "1"}}, "spec": {"template": {"spec": pod}}}
    cluster.api.merge(DAEMON_SET, patch)
    mended = eventually(
        cluster,
        lambda now: "nodeSelector" not in now["spec"]["template"]["spec"],
        "no selector that somebody added",
    )
    assert mended["spec"]["template"]["spec"]["hostNetwork"] is True
    assert mended["metadata"]["annotations"]["theirs"] == "1"
    cluster.kubectl("rollout", "restart", "-n", NAMESPACE, "daemonset/kmm-daemon")
    set_image(cluster, "kmm-daemon:restarted")
    after = eventually(cluster, lambda now: image(now) == "kmm-daemon:restarted", "a later change")
    assert RESTARTED in after["spec"]["template"]["metadata"]["annotations"]


def test_deleted_by_hand_it_is_made_again(cluster: Cluster, replicas: Replicas) -> None:
    first = eventually(cluster, lambda _: True, "a DaemonSet")["metadata"]["uid"]
    cluster.api.delete(DAEMON_SET)
    eventually(cluster, lambda now: now["metadata"]["uid"] != first, "another DaemonSet")


def test_it_goes_with_its_owner_and_comes_with_the_next_one(
    cluster: Cluster, replicas: Replicas
) -> None:
    first = eventually(cluster, lambda _: True, "a DaemonSet")["metadata"]["uid"]
    cluster.api.delete(f"{APPS}/deployments/kmm-cp")
    wait_until(lambda: found(cluster) is None, seconds=PATIENT, what="its collection as garbage")
    wait_until(
        lambda: bool(replicas.told("reconcile failed", controller="daemonset")),
        seconds=PATIENT,
        what="a leader that says why it makes none",
    )
    assert found(cluster) is None
    uid = own_deployment(cluster)["metadata"]["uid"]
    after = eventually(cluster, lambda now: now["metadata"]["uid"] != first, "another DaemonSet")
    assert [owner["uid"] for owner in after["metadata"]["ownerReferences"]] == [uid]


def test_without_an_owner_it_is_adopted(cluster: Cluster, replicas: Replicas) -> None:
    first = eventually(cluster, lambda _: True, "a DaemonSet")["metadata"]
    owners = first["ownerReferences"]
    cluster.api.merge(DAEMON_SET, {"metadata": {"ownerReferences": None}})
    after = eventually(
        cluster, lambda now: now["metadata"].get("ownerReferences") == owners, "its owner again"
    )
    assert after["metadata"]["uid"] == first["uid"]


def test_without_a_template_setting_it_is_left_to_others(
    cluster: Cluster, replicas: Replicas
) -> None:
    eventually(cluster, lambda _: True, "a DaemonSet")
    replicas.stop()
    for each in replicas.all:
        each.settings["daemon_template"] = ""
    replicas.start()
    leader, since = replicas.leader(), position(cluster)
    cluster.api.merge(DAEMON_SET, {"spec": {"template": {"spec": {"hostNetwork": False}}}})
    set_image(cluster, "kmm-daemon:ignored")
    leader.restart()
    replicas.leader()
    assert writes(replicas, since) == []
    assert leader.reconciles()["daemonset"] == 0


def test_settings_reach_it(cluster: Cluster, replicas: Replicas) -> None:
    eventually(cluster, lambda _: True, "a DaemonSet")
    replicas.stop()
    for each in replicas.all:
        each.settings["daemon_max_unavailable"] = "3"
    replicas.start()
    eventually(
        cluster,
        lambda now: now["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == 3,
        "three at once",
    )
