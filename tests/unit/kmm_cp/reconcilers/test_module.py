"""How a Module is protected from its deletion, and when it is let go."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from kmm_common.api.module import Module
from kmm_common.api.names import MODULE_FINALIZER
from kmm_cp.kube.errors import ConflictError
from kmm_cp.policy.module_status import Rules
from kmm_cp.policy.values import NodeState
from kmm_cp.reconcilers.module import ModuleReconciler
from kmm_cp.runtime.controller import DONE, Result
from support.kubecalls import Call, EventCalls, KubeCalls
from support.policy import entry, loaded, module, node, state
from support.virtualclock import VirtualClock

KEY = "default/simple"
WANTED = entry()
ON_NODE = state(WANTED, reports=(loaded(WANTED),))
UNLOADING = state(reports=(loaded(WANTED),))
UNLOADED = state()


def kmod(*finalizers: str, deleted: bool = False) -> Module:
    metadata: dict[str, Any] = {"finalizers": list(finalizers), "resourceVersion": "33"}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return module(metadata=metadata)


@dataclass
class World:
    module: Module | None
    state: NodeState = ON_NODE
    live: bool = True
    client: KubeCalls = field(default_factory=KubeCalls)
    events: EventCalls = field(default_factory=EventCalls)

    def __post_init__(self) -> None:
        self.modules = {KEY: self.module} if self.module else {}
        self.reconciler = ModuleReconciler(
            client=self.client,
            modules=self.modules,
            nodes={"node-1": node()},
            states={"node-1": self.state},
            events=self.events,
            live=lambda _: self.live,
            rules=Rules,
            clock=VirtualClock(),
        )

    async def reconcile(self) -> Result:
        return await self.reconciler.reconcile(KEY)


def finalizers(call: Call) -> list[str]:
    assert (call.verb, call.resource, call.namespace) == ("patch", "modules", "default")
    assert call.body["metadata"]["resourceVersion"] == "33"
    return list(call.body["metadata"]["finalizers"])


@pytest.mark.parametrize(
    "world",
    [World(None), World(kmod(MODULE_FINALIZER)), World(kmod("theirs", deleted=True))],
    ids=["gone", "protected already", "let go already"],
)
async def test_nothing_is_written_where_nothing_is_to_change(world: World) -> None:
    assert await world.reconcile() == DONE
    assert (world.client.calls, world.events.told) == ([], [])


async def test_new_module_gets_a_finalizer_beside_those_of_others() -> None:
    world = World(kmod("theirs"))
    await world.reconcile()
    assert finalizers(world.client.only()) == ["theirs", MODULE_FINALIZER]


@pytest.mark.parametrize("on_node", [ON_NODE, UNLOADING], ids=["planned", "not unloaded yet"])
async def test_deleted_module_is_held_and_looked_at_again(on_node: NodeState) -> None:
    world = World(kmod(MODULE_FINALIZER, deleted=True), on_node)
    result = await world.reconcile()
    assert result.requeue_after
    assert (world.client.calls, world.events.told) == ([], [])


@pytest.mark.parametrize(
    ("on_node", "live"),
    [
        (UNLOADED, True),
        (replace(UNLOADING, status=replace(UNLOADING.status, boot_id="earlier")), False),
        (state(reports=(loaded(WANTED),), connected=False), False),
    ],
    ids=["unloaded", "booted since", "away for long"],
)
async def test_deleted_module_is_let_go_once_and_told_once(on_node: NodeState, live: bool) -> None:
    world = World(kmod("theirs", MODULE_FINALIZER, deleted=True), on_node, live=live)
    assert await world.reconcile() == DONE
    assert await world.reconcile() == DONE, "the cache still shows the Module"
    assert finalizers(world.client.only()) == ["theirs"]
    (told,) = world.events.told
    assert (told.type, told.kind, told.reason) == ("Normal", "Module", "ModuleUnloaded")


async def test_module_that_is_made_anew_under_its_name_is_let_go_too() -> None:
    world = World(kmod(MODULE_FINALIZER, deleted=True), UNLOADED)
    await world.reconcile()
    again = kmod(MODULE_FINALIZER, deleted=True)
    metadata = again.metadata.model_copy(update={"uid": "another"})
    world.modules[KEY] = again.model_copy(update={"metadata": metadata})
    await world.reconcile()
    assert len(world.client.calls) == 2


async def test_conflict_is_left_to_the_next_try() -> None:
    world = World(kmod(MODULE_FINALIZER, deleted=True), UNLOADED)
    world.client.errors.append(ConflictError("changed", reason="Conflict"))
    with pytest.raises(ConflictError):
        await world.reconcile()
    assert world.events.told == []
    assert await world.reconcile() == DONE
    assert len(world.client.calls) == len(world.events.told) == 1
