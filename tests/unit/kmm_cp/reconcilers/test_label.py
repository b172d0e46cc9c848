"""When a node is labelled, under which precondition, and who is told."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from kmm_common.api.module import Module
from kmm_common.api.names import ready_label, version_ready_label
from kmm_common.logs import Fact, fields_of
from kmm_cp.kube.errors import ConflictError
from kmm_cp.policy.values import Node, NodeState
from kmm_cp.reconcilers.label import LabelReconciler
from kmm_cp.runtime.controller import DONE
from support.kubecalls import EventCalls, KubeCalls, Told
from support.policy import entry, loaded, module, node, state

READY = ready_label("default", "simple")
VERSION = version_ready_label("default", "simple")
WANTED = entry()
LOADED = state(WANTED, reports=(loaded(WANTED),))
DELETED = module(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})


def labelled(*keys: str, **changes: Any) -> Node:
    return node(labels=dict.fromkeys(keys, ""), resource_version="55", **changes)


@dataclass
class World:
    node: Node | None
    state: NodeState | None
    modules: tuple[Module, ...] = (module(),)
    live: bool = False
    client: KubeCalls = field(default_factory=KubeCalls)
    events: EventCalls = field(default_factory=EventCalls)

    async def reconcile(self) -> None:
        reconciler = LabelReconciler(
            client=self.client,
            events=self.events,
            modules={str(each.ref): each for each in self.modules},
            nodes={"node-1": self.node} if self.node else {},
            states={"node-1": self.state} if self.state else {},
            live=lambda _: self.live,
        )
        assert await reconciler.reconcile("node-1") == DONE


@pytest.mark.parametrize(
    ("world", "patch"),
    [
        (World(None, LOADED), None),
        (World(labelled(READY, deleting=True), state(WANTED)), {READY: None}),
        (World(labelled(), None), None),
        (World(labelled(READY), None), None),
        (World(labelled(READY), LOADED), None),
        (World(labelled("theirs"), state(WANTED)), None),
        (World(labelled(), LOADED), {READY: ""}),
        (World(labelled(READY), state(WANTED)), {READY: None}),
        (World(labelled(READY, boot_id="boot-2"), LOADED), {READY: None}),
        (World(labelled(READY, VERSION), LOADED), {VERSION: None}),
    ],
    ids=[
        "no node",
        "node is deleted",
        "nothing persisted",
        "nothing persisted, labelled",
        "true label",
        "no label, none wanted",
        "loaded",
        "not loaded any more",
        "another boot",
        "version is gone",
    ],
)
async def test_labels_are_patched_when_they_differ_and_only_then(
    world: World, patch: dict[str, str | None] | None
) -> None:
    await world.reconcile()
    assert [call.body["metadata"]["labels"] for call in world.client.calls] == (
        [patch] if patch else []
    )


async def test_patch_carries_the_version_of_the_node_that_was_looked_at() -> None:
    world = World(labelled(), LOADED)
    await world.reconcile()
    call = world.client.only()
    assert (call.verb, call.resource, call.name) == ("patch", "nodes", "node-1")
    assert call.body["metadata"]["resourceVersion"] == "55"


async def test_label_that_comes_is_told_on_the_node_as_upstream_does() -> None:
    world = World(labelled(), LOADED)
    await world.reconcile()
    text = "Module default/simple loaded into the kernel"
    assert world.events.told == [Told("Normal", "Node", "node-1", "ModuleLoaded", text)]


@pytest.mark.parametrize(
    ("modules", "events"),
    [((module(),), 1), ((DELETED,), 0), ((), 0)],
    ids=["stays", "is deleted", "is gone"],
)
async def test_label_that_goes_is_told_unless_the_module_itself_goes(
    modules: tuple[Module, ...], events: int
) -> None:
    world = World(labelled(READY), state(WANTED), modules=modules)
    await world.reconcile()
    assert len(world.client.calls) == 1
    assert [told.reason for told in world.events.told] == ["ModuleUnloaded"] * events


async def test_conflict_is_left_to_the_next_try_and_tells_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="kmm_cp.reconcilers.label")
    world = World(labelled(), LOADED)
    world.client.errors.append(ConflictError("changed", reason="Conflict"))
    with pytest.raises(ConflictError):
        await world.reconcile()
    assert (world.events.told, caplog.records) == ([], [])


@pytest.mark.parametrize(
    "world",
    [World(labelled(), LOADED), World(labelled(boot_id=""), LOADED, live=True)],
    ids=["of the Node", "of the session, while the Node is new"],
)
async def test_change_is_logged_with_the_boot_it_is_about(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="kmm_cp.reconcilers.label")
    await world.reconcile()
    (record,) = caplog.records
    assert record.message == Fact.LABELLED
    assert fields_of(record) == {
        "node": "node-1",
        "boot_id": "boot-1",
        "added": ["default/simple"],
        "removed": [],
    }
