"""When the desired state of a node is written, how, and what is in it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from kmm_common.api import names
from kmm_common.api.module import Module
from kmm_common.api.names import ready_label
from kmm_common.api.nodemodulesstate import spec_hash, spec_to_json
from kmm_common.desired import ModuleRef
from kmm_common.errors import KmmError
from kmm_common.logs import Fact, fields_of
from kmm_cp.kube.errors import AlreadyExistsError, ConflictError
from kmm_cp.policy.digests import Digests
from kmm_cp.policy.values import Node, NodeState
from kmm_cp.reconcilers.node import NodeReconciler
from kmm_cp.runtime.controller import DONE
from support.kubecalls import KubeCalls
from support.policy import entry, module, node, pending, pinned, state
from support.virtualclock import VirtualClock

WANTED = entry()
METADATA = {
    "name": "node-1",
    "uid": "uid-state-node-1",
    "resourceVersion": "77",
    "annotations": {"somebody": "else"},
    "labels": {"a": "b"},
    "finalizers": ["example.test/theirs"],
    "ownerReferences": [
        {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "uid-node-1"},
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "theirs"},
    ],
}


def persisted(*modules: Any, **changes: Any) -> NodeState:
    """Return a NodeModulesState as it comes from the API server."""
    return replace(state(*modules), metadata=METADATA, **changes)


@dataclass
class World:
    modules: tuple[Module, ...] = (module(),)
    node: Node | None = field(default_factory=node)
    state: NodeState | None = None
    digests: Digests = pinned
    live: bool = False
    client: KubeCalls = field(default_factory=KubeCalls)
    observed: list[dict[str, Any]] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)

    def reconciler(self) -> NodeReconciler:
        return NodeReconciler(
            client=self.client,
            modules={str(each.ref): each for each in self.modules},
            unreadable=self.unreadable,
            nodes={"node-1": self.node} if self.node else {},
            states={"node-1": self.state} if self.state else {},
            digests=self.digests,
            live=lambda _: self.live,
            observe=self.observed.append,
            clock=VirtualClock(),
        )


@pytest.mark.parametrize(
    ("world", "verb"),
    [
        (World(node=None), ""),
        (World(node=node(deleting=True)), ""),
        (World(node=node(deleting=True), state=persisted(WANTED), modules=()), "replace"),
        (World(node=node(kernel_version="")), ""),
        (World(digests=pending), ""),
        (World(modules=()), ""),
        (World(), "create"),
        (World(modules=(), live=True), "create"),
        (World(modules=(), node=node(labels={ready_label("default", "gone"): ""})), "create"),
        (World(state=persisted(WANTED)), ""),
        (World(state=persisted(WANTED), digests=pending), ""),
        (World(state=persisted()), "replace"),
        (World(state=persisted(WANTED), modules=()), "replace"),
        (World(state=persisted(WANTED), modules=(), unreadable={"default/simple"}), ""),
        (World(state=persisted(WANTED, intact=False)), "replace"),
        (World(state=persisted(WANTED, owner_uid="of an earlier node")), "replace"),
        (World(node=node(paused="true"), state=persisted(WANTED), modules=()), ""),
        (World(node=node(paused="true"), live=True), ""),
        (World(node=node(paused="true"), state=persisted(WANTED, intact=False)), ""),
    ],
    ids=[
        "no node",
        "node is deleted",
        "node is deleted but still has a module",
        "kernel not known yet",
        "registry has not answered",
        "nothing to have",
        "a Module to have",
        "a daemon without Modules",
        "a label to verify",
        "all is as planned",
        "planned before, registry has not answered",
        "a Module is new",
        "a Module is gone",
        "a Module cannot be read",
        "somebody edited it",
        "node was made anew",
        "node is paused and has what is gone",
        "node is paused and has nothing yet",
        "node is paused and somebody edited its state",
    ],
)
async def test_desired_state_is_written_when_it_differs_and_only_then(
    world: World, verb: str
) -> None:
    assert await world.reconciler().reconcile("node-1") == DONE
    assert [call.verb for call in world.client.calls] == ([verb] if verb else [])


async def test_object_is_created_whole_signed_and_owned_by_its_node() -> None:
    world = World()
    await world.reconciler().reconcile("node-1")
    call = world.client.only()
    assert (call.resource, call.name) == ("nodemodulesstates", "node-1")
    assert call.body["spec"] == spec_to_json((WANTED,))
    metadata = call.body["metadata"]
    assert metadata["annotations"] == {names.SPEC_HASH_ANNOTATION: spec_hash((WANTED,))}
    assert metadata["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "uid-node-1"}
    ]
    assert "resourceVersion" not in metadata
    (observed,) = world.observed
    assert observed["metadata"]["resourceVersion"] == "1000"


async def test_replacing_carries_the_version_and_everybody_elses_metadata() -> None:
    world = World(state=persisted(), node=node(uid="new"))
    await world.reconciler().reconcile("node-1")
    metadata = world.client.only().body["metadata"]
    assert metadata["resourceVersion"] == "77"
    assert (metadata["labels"], metadata["finalizers"]) == ({"a": "b"}, ["example.test/theirs"])
    assert metadata["annotations"]["somebody"] == "else"
    assert metadata["annotations"][names.SPEC_HASH_ANNOTATION] == spec_hash((WANTED,))
    assert [(owner["kind"], owner["uid"]) for owner in metadata["ownerReferences"]] == [
        ("ConfigMap", "theirs"),
        ("Node", "new"),
    ]


async def test_state_of_a_paused_node_gets_a_new_owner_and_no_other_spec() -> None:
    """Without its owner the garbage collector would take it away, and all that is held."""
    held = persisted(WANTED, owner_uid="of an earlier node")
    world = World(node=node(paused="true"), state=held, modules=())
    await world.reconciler().reconcile("node-1")
    body = world.client.only().body
    assert body["spec"] == spec_to_json((WANTED,))
    assert body["metadata"]["ownerReferences"][-1]["uid"] == "uid-node-1"


@pytest.mark.parametrize(
    ("world", "error"),
    [
        (lambda: World(), AlreadyExistsError("there", reason="AlreadyExists")),
        (lambda: World(state=persisted()), ConflictError("changed", reason="Conflict")),
    ],
)
async def test_write_that_comes_too_late_is_left_to_the_next_try(
    world: Callable[[], World], error: KmmError
) -> None:
    late = world()
    late.client.errors.append(error)
    with pytest.raises(type(error)):
        await late.reconciler().reconcile("node-1")
    assert late.observed == []


async def test_every_write_is_logged_as_published(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="kmm_cp.reconcilers.node")
    world = World()
    await world.reconciler().reconcile("node-1")
    (record,) = (record for record in caplog.records if record.message == Fact.PUBLISHED)
    fields = fields_of(record)
    assert (fields["node"], fields["uid"], fields["generation"]) == ("node-1", "uid-of-node-1", 1)
    told = {"ref": str(ModuleRef("default", "simple")), "digest": WANTED.image_digest}
    assert fields["modules"] == [{**told, "hash": WANTED.config_hash}]


async def test_plan_that_ends_by_itself_is_looked_at_again_then() -> None:
    clock = VirtualClock()
    toleration = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 90}
    taint = {"key": "k", "effect": "NoExecute", "timeAdded": clock.now().isoformat()}
    tainted = Node.from_object(
        {
            "metadata": {"name": "node-1", "uid": "uid-node-1"},
            "spec": {"taints": [taint]},
            "status": {"nodeInfo": {"kernelVersion": WANTED.kernel_version, "bootID": "boot-1"}},
        }
    )
    tolerant = module(spec={"tolerations": [toleration]})
    world = World(node=tainted, modules=(tolerant,), state=persisted(WANTED))
    result = await world.reconciler().reconcile("node-1")
    assert result.requeue_after == 90
    assert world.client.calls == []
