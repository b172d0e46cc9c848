"""When a NodeModulesState says that its Node is paused."""

from dataclasses import replace

import pytest

from kmm_cp.kube.errors import ConflictError
from kmm_cp.policy.values import Node, NodeState
from kmm_cp.reconcilers.pause import PauseReconciler
from kmm_cp.runtime.controller import DONE
from support.kubecalls import KubeCalls
from support.policy import node, state
from support.virtualclock import VirtualClock


class World:
    """One node and its state."""

    def __init__(self, *nodes: Node, states: tuple[NodeState, ...] = (state(),)) -> None:
        self.client = KubeCalls()
        self.states = {each.name: each for each in states}
        self.reconciler = PauseReconciler(
            client=self.client,
            nodes={each.name: each for each in nodes},
            states=self.states,
            clock=VirtualClock(),
        )

    async def reconcile(self) -> None:
        assert await self.reconciler.reconcile("node-1") == DONE


async def test_pause_is_written_once_under_the_version_that_was_seen() -> None:
    seen = replace(state(), metadata={"resourceVersion": "7"})
    world = World(node(paused="true"), states=(seen,))
    await world.reconcile()
    call = world.client.only()
    assert (call.verb, call.resource) == ("patch", "nodemodulesstates/status")
    assert call.body["metadata"] == {"resourceVersion": "7"}
    conditions = call.body["status"]["conditions"]
    assert [each["type"] for each in conditions] == ["Paused"]
    status = replace(seen.status, conditions=tuple(conditions))
    world.states["node-1"] = replace(seen, status=status)
    world.client.calls.clear()
    await world.reconcile()
    assert world.client.calls == []


@pytest.mark.parametrize(
    "world",
    [World(node()), World(), World(node(paused="true"), states=())],
    ids=["not paused", "no node", "no state"],
)
async def test_nothing_is_written_where_there_is_nothing_to_say(world: World) -> None:
    await world.reconcile()
    assert world.client.calls == []


async def test_state_that_has_changed_meanwhile_is_looked_at_again() -> None:
    world = World(node(paused="true"))
    world.client.errors.append(ConflictError("changed", reason="Conflict"))
    with pytest.raises(ConflictError):
        await world.reconcile()
    await world.reconcile()
    assert len(world.client.calls) == 1
