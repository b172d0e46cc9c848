"""How a NodeModulesState that is behind its daemon is replaced."""

from collections.abc import Mapping

import pytest

from kmm_common.errors import KmmError
from kmm_cp.kube.errors import ConflictError, NotFoundError, UnavailableError
from kmm_cp.policy.values import Node
from kmm_cp.runtime.controller import DONE
from kmm_cp.serving.restore import Restorer
from support.kubecalls import Call, EventCalls, KubeCalls, Told
from support.policy import node


def world(nodes: Mapping[str, Node]) -> tuple[Restorer, KubeCalls, EventCalls]:
    client, events = KubeCalls(), EventCalls()
    reconciler = Restorer(client=client, events=events, nodes=nodes)
    reconciler.behind["node-1"] = "uid-old"
    return reconciler, client, events


async def test_object_that_is_behind_is_deleted_by_its_uid_and_told_once() -> None:
    reconciler, client, events = world({"node-1": node()})
    for _ in range(2):
        assert await reconciler.reconcile("node-1") == DONE
    assert client.only() == Call("delete", "nodemodulesstates", "node-1", None, "", uid="uid-old")
    text = "NodeModulesState was older than what the node had; it is made anew"
    assert events.told == [Told("Warning", "Node", "node-1", "StateRestored", text)]


async def test_node_that_is_not_behind_is_left_alone() -> None:
    reconciler, client, events = world({"node-1": node()})
    assert await reconciler.reconcile("another") == DONE
    assert (client.calls, events.told) == ([], [])


async def test_node_that_is_gone_is_nobodys_event() -> None:
    reconciler, client, events = world({})
    await reconciler.reconcile("node-1")
    assert (len(client.calls), events.told) == (1, [])


@pytest.mark.parametrize(
    "error",
    [NotFoundError("gone", reason="NotFound"), ConflictError("another", reason="Conflict")],
)
async def test_object_that_somebody_replaced_already_is_left_alone(error: KmmError) -> None:
    reconciler, client, events = world({"node-1": node()})
    client.errors.append(error)
    assert await reconciler.reconcile("node-1") == DONE
    assert (reconciler.behind, events.told) == ({}, [])


async def test_delete_that_fails_is_tried_again() -> None:
    reconciler, client, _ = world({"node-1": node()})
    client.errors.append(UnavailableError("away", reason="Unavailable"))
    with pytest.raises(UnavailableError):
        await reconciler.reconcile("node-1")
    assert await reconciler.reconcile("node-1") == DONE
    assert len(client.calls) == 1
