"""When the daemon's DaemonSet is written."""

from typing import Any

import pytest

from kmm_common.errors import TerminalError, TransientError
from kmm_cp.kube.errors import NotFoundError
from kmm_cp.policy.daemonset import Wish, new
from kmm_cp.reconcilers.daemonset import DaemonSetReconciler
from kmm_cp.runtime.controller import DONE
from support.kubecalls import EventCalls, KubeCalls

WISH = Wish(name="d", namespace="ns", max_unavailable="1", template="t", deployment="cp")
TEMPLATE = {
    "metadata": {"name": "t"},
    "template": {
        "metadata": {"labels": {"app.kubernetes.io/name": "kmm-daemon"}},
        "spec": {"containers": []},
    },
}
DEPLOYMENT = {"metadata": {"name": "cp", "uid": "uid-cp"}}
GOING = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


class World:
    def __init__(self) -> None:
        self.client, self.events = KubeCalls(), EventCalls()
        self.client.objects["cp"] = DEPLOYMENT
        self.daemon_sets: dict[str, Any] = {}
        self.templates: dict[str, Any] = {"ns/t": TEMPLATE}
        self.observed: list[Any] = []
        self.reconciler = DaemonSetReconciler(
            client=self.client,
            events=self.events,
            wish=WISH,
            templates=self.templates,
            daemon_sets=self.daemon_sets,
            observe=self.observed.append,
        )

    def have(self, **metadata: Any) -> dict[str, Any]:
        """Put one that is as it should be."""
        made = new(WISH, TEMPLATE, "uid-cp")
        made["metadata"] |= metadata
        self.daemon_sets["ns/d"] = made
        return made


@pytest.fixture
def world() -> World:
    return World()


async def test_missing_one_is_made_and_told(world: World) -> None:
    assert await world.reconciler.reconcile("daemonset") == DONE
    call = world.client.only()
    assert (call.verb, call.resource, call.namespace) == ("create", "daemonsets", "ns")
    assert call.body == new(WISH, TEMPLATE, "uid-cp")
    assert len(world.observed) == 1
    assert len(world.events.told) == 1


async def test_right_one_is_left_alone(world: World) -> None:
    world.have()
    assert await world.reconciler.reconcile("daemonset") == DONE
    assert (world.client.calls, world.events.told) == ([], [])


async def test_other_one_is_replaced_in_the_version_that_was_seen(world: World) -> None:
    world.have(resourceVersion="7")["spec"]["template"]["spec"] = {"containers": ["theirs"]}
    await world.reconciler.reconcile("daemonset")
    call = world.client.only()
    assert (call.verb, call.name) == ("replace", "d")
    assert call.body["metadata"]["resourceVersion"] == "7"
    assert call.body["spec"]["template"]["spec"] == {"containers": []}


@pytest.mark.parametrize("going", ["owner", "itself"])
async def test_nothing_is_written_while_it_goes(world: World, going: str) -> None:
    made = world.have()
    made["spec"]["template"]["spec"] = {}
    if going == "owner":
        world.client.objects["cp"] = {"metadata": {**DEPLOYMENT["metadata"], **GOING}}
    else:
        made["metadata"] |= GOING
    assert await world.reconciler.reconcile("daemonset") == DONE
    assert world.client.calls == []


async def test_without_a_template_it_stays_as_it_is(world: World) -> None:
    world.templates.clear()
    with pytest.raises(TerminalError, match="no PodTemplate t in namespace ns"):
        await world.reconciler.reconcile("daemonset")


async def test_without_an_owner_it_is_tried_again_with_the_remedy(world: World) -> None:
    world.client.errors.append(NotFoundError("404"))
    with pytest.raises(TransientError, match="set `deployment`"):
        await world.reconciler.reconcile("daemonset")
    assert world.client.calls == []
