"""When a node is said not to be connected."""

import pytest

from kmm_cp.kube.errors import InvalidError, UnavailableError
from kmm_cp.policy.values import NodeState
from kmm_cp.reconcilers.connection import UNSERVED_SECONDS, ConnectionReconciler
from kmm_cp.runtime.controller import DONE, Result
from support.kubecalls import KubeCalls
from support.policy import state
from support.virtualclock import VirtualClock


class World:
    """One node that says it is connected, and that nobody serves."""

    def __init__(self, known: NodeState | None = None) -> None:
        self.client, self.clock, self.live = KubeCalls(), VirtualClock(), False
        self.states = {"node-1": known or state()}
        self.reconciler = ConnectionReconciler(
            client=self.client, states=self.states, live=lambda _: self.live, clock=self.clock
        )

    async def reconcile(self, *, after: float = 0.0) -> Result:
        await self.clock.advance(after)
        return await self.reconciler.reconcile("node-1")


async def test_node_is_disconnected_only_when_nobody_has_served_it_for_a_while() -> None:
    world = World()
    assert await world.reconcile() == Result(requeue_after=UNSERVED_SECONDS)
    assert await world.reconcile(after=40) == Result(requeue_after=UNSERVED_SECONDS - 40)
    assert world.client.calls == []
    assert await world.reconcile(after=UNSERVED_SECONDS - 40) == DONE
    call = world.client.only()
    assert (call.verb, call.resource, call.name) == (
        "patch",
        "nodemodulesstates/status",
        "node-1",
    )
    instance = world.states["node-1"].daemon.instance
    assert call.body[0] == {"op": "test", "path": "/status/daemon/instance", "value": instance}
    written = {each["path"].rpartition("/")[2]: each["value"] for each in call.body[1:]}
    assert written == {"connected": False, "since": "2026-01-01T00:01:00Z"}


@pytest.mark.parametrize("change", ["live", "gone", "said"])
async def test_wait_starts_anew_after_it_was_in_vain(change: str) -> None:
    world = World()
    await world.reconcile()
    if change == "live":
        world.live = True
    elif change == "gone":
        del world.states["node-1"]
    else:
        world.states["node-1"] = state(connected=False)
    assert await world.reconcile(after=UNSERVED_SECONDS) == DONE
    assert world.client.calls == []
    world.live, world.states["node-1"] = False, state()
    assert await world.reconcile() == Result(requeue_after=UNSERVED_SECONDS)


async def test_session_that_was_claimed_meanwhile_stays_connected() -> None:
    world = World()
    await world.reconcile()
    world.client.errors.append(InvalidError("test failed", reason="Invalid"))
    assert await world.reconcile(after=UNSERVED_SECONDS) == DONE
    assert world.client.calls == []


async def test_write_that_fails_is_made_at_the_next_try() -> None:
    world = World()
    await world.reconcile()
    world.client.errors.append(UnavailableError("away", reason="Unavailable"))
    with pytest.raises(UnavailableError):
        await world.reconcile(after=UNSERVED_SECONDS)
    assert await world.reconcile() == DONE
    assert len(world.client.calls) == 1
