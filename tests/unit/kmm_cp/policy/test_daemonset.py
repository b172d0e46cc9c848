"""What the daemon's DaemonSet should be."""

import copy
from typing import Any

import pytest

from kmm_common.errors import TerminalError
from kmm_cp.policy.daemonset import MIN_READY_SECONDS, RESTARTED, Wish, new, update

Object = dict[str, Any]

WISH = Wish(
    name="kmm-daemon",
    namespace="ns",
    max_unavailable="10%",
    template="kmm-daemon",
    deployment="kmm-cp",
)
LABELS = {"app.kubernetes.io/name": "kmm-daemon"}
OTHERS = {"apiVersion": "example/v1", "kind": "Thing", "name": "x", "uid": "u"}


def template(image: str = "kmm-daemon:1", **labels: str) -> Object:
    return {
        "metadata": {"name": "kmm-daemon"},
        "template": {
            "metadata": {"labels": {**LABELS, **labels}},
            "spec": {"containers": [{"name": "daemon", "image": image}]},
        },
    }


def stored(**metadata: Any) -> Object:
    """Return what the API server has of a new one, with what it adds."""
    made = copy.deepcopy(new(WISH, template(), "uid-cp"))
    made["metadata"] |= {"uid": "uid-ds", "resourceVersion": "7", **metadata}
    made["spec"]["revisionHistoryLimit"] = 10
    made["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] = 0
    made["spec"]["template"]["metadata"] = {"labels": LABELS}
    return made


def test_new_one_is_the_template_and_belongs_to_the_deployment() -> None:
    made = new(WISH, template(image="r/daemon@sha256:1"), "uid-cp")
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Deployment", "kmm-cp", "uid-cp")
    assert made["spec"]["selector"] == {"matchLabels": LABELS}
    assert (
        made["spec"]["template"]["spec"] == template(image="r/daemon@sha256:1")["template"]["spec"]
    )
    assert made["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": "10%"}
    assert made["spec"]["minReadySeconds"] == MIN_READY_SECONDS


def test_nothing_is_written_where_nothing_differs() -> None:
    assert update(WISH, template(), "uid-cp", stored()) is None
    others = stored(
        annotations={"theirs": "1"}, labels={**stored()["metadata"]["labels"], "a": "b"}
    )
    assert update(WISH, template(), "uid-cp", others) is None


def test_changed_template_is_taken_and_what_is_others_stays() -> None:
    before = stored(annotations={"theirs": "1"}, finalizers=["theirs/too"])
    before["metadata"]["ownerReferences"].insert(0, OTHERS)
    after = update(WISH, template(image="kmm-daemon:2"), "uid-cp", before)
    assert after is not None
    assert after["spec"]["template"]["spec"]["containers"][0]["image"] == "kmm-daemon:2"
    assert after["metadata"] == before["metadata"]
    assert after["spec"]["revisionHistoryLimit"] == 10


def spec_edited(change: str) -> Object:
    edited = stored()
    pod = edited["spec"]["template"]["spec"]
    match change:
        case "added":
            pod["nodeSelector"] = {"theirs": ""}
        case "changed":
            pod["containers"][0]["image"] = "other"
        case "removed":
            del pod["containers"]
        case "strategy":
            edited["spec"]["updateStrategy"] = {"type": "OnDelete"}
        case "readiness":
            del edited["spec"]["minReadySeconds"]
        case "labels":
            edited["metadata"]["labels"] = {}
        case "owner":
            del edited["metadata"]["ownerReferences"]
    return edited


@pytest.mark.parametrize(
    "change", ["added", "changed", "removed", "strategy", "readiness", "labels", "owner"]
)
def test_what_somebody_changed_by_hand_is_put_right(change: str) -> None:
    after = update(WISH, template(), "uid-cp", spec_edited(change))
    wanted = new(WISH, template(), "uid-cp")
    assert after is not None
    assert after["spec"]["template"] == wanted["spec"]["template"]
    assert after["spec"]["updateStrategy"]["type"] == "RollingUpdate"
    assert after["spec"]["minReadySeconds"] == MIN_READY_SECONDS
    assert after["metadata"]["labels"] == wanted["metadata"]["labels"]
    assert after["metadata"]["ownerReferences"] == wanted["metadata"]["ownerReferences"]


def test_restart_by_kubectl_is_not_taken_back() -> None:
    restarted = stored()
    restarted["spec"]["template"]["metadata"]["annotations"] = {RESTARTED: "now"}
    assert update(WISH, template(), "uid-cp", restarted) is None
    after = update(WISH, template(image="kmm-daemon:2"), "uid-cp", restarted)
    assert after is not None
    assert after["spec"]["template"]["metadata"]["annotations"] == {RESTARTED: "now"}


def test_deployment_that_was_made_anew_takes_the_place_of_the_old_one() -> None:
    after = update(WISH, template(), "uid-new", stored())
    assert after is not None
    assert [owner["uid"] for owner in after["metadata"]["ownerReferences"]] == ["uid-new"]


def test_number_of_daemons_at_once_is_a_number() -> None:
    wish = Wish(
        name="d", namespace="ns", max_unavailable="3", template="kmm-daemon", deployment="kmm-cp"
    )
    after = update(wish, template(), "uid-cp", stored())
    assert after is not None
    rolling = after["spec"]["updateStrategy"]["rollingUpdate"]
    assert rolling == {"maxUnavailable": 3, "maxSurge": 0}


def test_one_of_another_controller_is_not_touched() -> None:
    theirs = stored(ownerReferences=[{**OTHERS, "controller": True}])
    with pytest.raises(TerminalError, match="belongs to Thing x: delete it, or leave daemon_temp"):
        update(WISH, template(), "uid-cp", theirs)


def test_template_without_a_label_to_select_by_is_refused_with_the_remedy() -> None:
    bare = template()
    del bare["template"]["metadata"]
    with pytest.raises(TerminalError, match=r"set the label app\.kubernetes\.io/name in"):
        new(WISH, bare, "uid-cp")
