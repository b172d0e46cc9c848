"""KMM's own Pods come, go and are replaced under modules that stay as they are."""

import json
from pathlib import Path

import pytest

from kmm_cp.serving.token import AUDIENCE
from kmm_sandbox import samples
from kmm_sandbox.cluster import kmm
from kmm_sandbox.cluster.cluster import HOST_NODE, Cluster
from kmm_sandbox.cluster.images import read_archive
from kmm_sandbox.cluster.kmm import CONTROL_PLANE, DAEMON
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.kubelet import NAMESPACE
from kmm_sandbox.outcome import Outcome
from support.kubelets import PODS, Kubelets, running
from support.nextimage import relabelled
from support.stage import STATES, Stage

pytestmark = pytest.mark.nightly

SLIP = "slip"
MAX_UNAVAILABLE = 1
"""A tenth of the nodes, as shipped, rounded up."""
ROLLOUT_SECONDS = 300.0
ENDS = 2
"""How often a daemon must have ended for the rollout to have had its chance."""


def test_control_plane_is_on_the_node_without_taint_and_daemons_have_enrolled_from_the_others(
    stage: Stage[Kubelets], kubelets: Kubelets
) -> None:
    cluster = kubelets.cluster
    stage.until(
        lambda: (
            {node: len(names) for node, names in running(cluster, CONTROL_PLANE).items()}
            == {HOST_NODE: 2}
        ),
        "both replicas on the node of this machine's kernel",
    )
    # The Pod that the control plane says a session has is the one that its certificate names.
    wait_for_sessions(stage, cluster)
    assert running(cluster, DAEMON).keys() == cluster.nodes.keys()


@pytest.mark.parametrize(
    ("kind", "app"),
    [("deployment", CONTROL_PLANE), ("daemonset", DAEMON)],
    ids=["control-plane", "daemons"],
)
def test_a_rollout_replaces_every_pod_and_reloads_nothing(
    stage: Stage[Kubelets], kubelets: Kubelets, kind: str, app: str
) -> None:
    outcome, cluster = loaded(stage), kubelets.cluster
    before, loads = names_of(cluster, app), directories(stage)

    cluster.kubectl("-n", NAMESPACE, "rollout", "restart", f"{kind}/{app}")

    stage.until(
        lambda: rolled_out(cluster, kind, app) and not before & names_of(cluster, app),
        f"new Pods of {app}",
        seconds=ROLLOUT_SECONDS,
    )
    wait_for_sessions(stage, cluster)
    outcome.wait_loaded()
    assert directories(stage) == loads


def test_daemons_of_another_image_take_over_and_unload_nothing(
    stage: Stage[Kubelets], kubelets: Kubelets, archives: Path
) -> None:
    outcome, cluster = loaded(stage), kubelets.cluster
    loads, digests = directories(stage), kmm.push_all(cluster.registry, archives)
    image = relabelled(read_archive(archives / f"{DAEMON}.oci.tar"), "kmm.test/release", "next")
    digests[DAEMON] = kmm.push(cluster.registry, DAEMON, image)

    kmm.apply(cluster, digests)

    stage.until(
        lambda: (
            images_of(cluster) == {digests[DAEMON]} and rolled_out(cluster, "daemonset", DAEMON)
        ),
        "daemons of the next image",
        seconds=ROLLOUT_SECONDS,
    )
    wait_for_sessions(stage, cluster)
    outcome.wait_loaded()
    assert directories(stage) == loads


def test_daemons_that_end_at_once_replace_no_more_than_may_be_away(
    stage: Stage[Kubelets], kubelets: Kubelets
) -> None:
    outcome, cluster = loaded(stage), kubelets.cluster
    loads, before = directories(stage), names_of(cluster, DAEMON)
    wrong, right = ["--config", "/etc/kmm/none.json"], args_of_template(cluster)

    set_args_of_template(cluster, wrong)

    stage.until(
        lambda: restarts_of(cluster, wrong) >= ENDS,
        "daemons that end at once",
        seconds=ROLLOUT_SECONDS,
    )
    assert len(pods_with(cluster, wrong)) == MAX_UNAVAILABLE
    assert len(before & names_of(cluster, DAEMON)) == len(cluster.nodes) - MAX_UNAVAILABLE
    assert directories(stage) == loads

    set_args_of_template(cluster, right)

    stage.until(
        lambda: not pods_with(cluster, wrong) and rolled_out(cluster, "daemonset", DAEMON),
        "daemons as they were",
        seconds=ROLLOUT_SECONDS,
    )
    wait_for_sessions(stage, cluster)
    outcome.wait_loaded()
    assert directories(stage) == loads


def test_daemons_have_no_token_that_the_api_server_would_take(
    stage: Stage[Kubelets], kubelets: Kubelets
) -> None:
    cluster = kubelets.cluster
    for name in names_of(cluster, DAEMON):
        volumes = cluster.api.get(f"{PODS}/{name}")["spec"]["volumes"]
        sources = [
            each for volume in volumes for each in volume.get("projected", {}).get("sources", ())
        ]
        audiences = [
            each["serviceAccountToken"]["audience"]
            for each in sources
            if "serviceAccountToken" in each
        ]
        assert audiences == [AUDIENCE]
    answer = kubelets.nodes["node1"].run_in_pod(
        "python3.11", "-c", "import os; print(os.listdir('/var/run/secrets'))"
    )
    assert answer.check().strip() == "['kmm']"


def test_a_killed_daemon_is_started_again_in_its_pod_and_reloads_nothing(
    stage: Stage[Kubelets], kubelets: Kubelets
) -> None:
    outcome, cluster, name = loaded(stage), kubelets.cluster, "node1"
    before, loads = session(cluster, name), directories(stage)

    cluster.nodes[name].execute("pkill", "-KILL", "-f", "/etc/kmm/daemon.json").check()

    stage.until(
        lambda: session(cluster, name)["instance"] != before["instance"],
        "session of the next daemon",
    )
    assert session(cluster, name)["podName"] == before["podName"]
    outcome.wait_loaded()
    assert directories(stage) == loads


def loaded(stage: Stage[Kubelets]) -> Outcome:
    """Have a Module loaded on all nodes."""
    outcome = stage.apply(SLIP, samples.push(stage.sandbox, SLIP, (SLIP,)), SLIP)
    outcome.wait_loaded()
    return outcome


def directories(stage: Stage[Kubelets]) -> dict[str, str]:
    """Return what is another after an unload and a load: the directory that the kernel has made."""
    argv = ("stat", "-c", "%i", f"/sys/module/{SLIP}")
    return {name: node.execute(*argv).check() for name, node in stage.sandbox.nodes.items()}


def wait_for_sessions(stage: Stage[Kubelets], cluster: Cluster) -> None:
    """Wait until the daemons' Pods that run are those that have the sessions."""

    def of_running() -> bool:
        daemons = running(cluster, DAEMON)
        have = {name: [session(cluster, name)["podName"]] for name in cluster.nodes}
        return have == daemons

    stage.until(of_running, "sessions of the Pods that run")


def rolled_out(cluster: Cluster, kind: str, name: str) -> bool:
    """Tell whether the newest revision is all that there is of a Deployment or a DaemonSet."""
    found = cluster.api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/{kind}s/{name}")
    status = found["status"]
    wanted = status.get("desiredNumberScheduled", found["spec"].get("replicas"))
    updated = status.get("updatedNumberScheduled", status.get("updatedReplicas"))
    ready = status.get("numberReady", status.get("readyReplicas"))
    current = status["observedGeneration"] == found["metadata"]["generation"]
    return bool(current and updated == ready == wanted)


def args_of_template(cluster: Cluster) -> list[str]:
    """Return the arguments of the daemon in the template that its DaemonSet is made of."""
    template = cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/podtemplates/{DAEMON}")
    args: list[str] = template["template"]["spec"]["containers"][0]["args"]
    return args


def set_args_of_template(cluster: Cluster, args: list[str]) -> None:
    change = {"op": "replace", "path": "/template/spec/containers/0/args", "value": args}
    patch = ("--type=json", "--patch", json.dumps([change]))
    cluster.kubectl("-n", NAMESPACE, "patch", "podtemplate", DAEMON, *patch)


def pods_with(cluster: Cluster, args: list[str]) -> list[Object]:
    """Return the daemons' Pods that have these arguments."""
    pods = cluster.api.items(f"{PODS}?labelSelector=app.kubernetes.io%2Fname%3D{DAEMON}")
    return [pod for pod in pods if pod["spec"]["containers"][0]["args"] == args]


def restarts_of(cluster: Cluster, args: list[str]) -> int:
    """Return how often a kubelet has started the containers of such Pods again."""
    statuses = [pod["status"].get("containerStatuses", ()) for pod in pods_with(cluster, args)]
    return sum(status["restartCount"] for each in statuses for status in each)


def names_of(cluster: Cluster, app: str) -> set[str]:
    """Return the names of a program's Pods that run."""
    return {name for names in running(cluster, app).values() for name in names}


def images_of(cluster: Cluster) -> set[str]:
    """Return the digests of the images of the daemons that run, as their nodes pulled them."""
    pods = (cluster.api.get(f"{PODS}/{name}") for name in names_of(cluster, DAEMON))
    statuses = (status for pod in pods for status in pod["status"]["containerStatuses"])
    return {status["imageID"].rpartition("@")[2] for status in statuses}


def session(cluster: Cluster, node: str) -> dict[str, str]:
    """Return what the control plane says of a node's daemon."""
    said: dict[str, str] = cluster.api.get(f"{STATES}/{node}")["status"]["daemon"]
    return said
