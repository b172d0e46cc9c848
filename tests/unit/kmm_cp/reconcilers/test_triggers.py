"""Which keys a change of an object sets off."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from kmm_common.api.module import Module
from kmm_common.api.names import CONTAINS_MODULES_LABEL
from kmm_cp.kube.informer import Change
from kmm_cp.policy.digests import ImageKey
from kmm_cp.policy.values import Node, NodeState
from kmm_cp.reconcilers.triggers import STATUS_SECONDS, Triggers, selects
from kmm_cp.runtime.queue import Priority, Queue
from support.policy import KERNEL, entry, loaded, module, node, state

KEY = "default/simple"
GPU = {"gpu": "yes"}
FOR_GPU = module(spec={"selector": GPU})
DELETED = module(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
WANTED = entry()


@dataclass
class Keys(Queue[str]):
    """A queue that notes what it is given."""

    now: dict[str, Priority] = field(default_factory=dict)
    later: dict[str, float] = field(default_factory=dict)

    def add(self, key: str, priority: Priority = Priority.FRESH) -> None:
        self.now[key] = priority

    def add_after(self, key: str, seconds: float) -> None:
        self.later[key] = seconds


class World:
    """Two nodes, a and b, of which a has the label gpu."""

    def __init__(self, *modules: Module, states: tuple[NodeState, ...] = ()) -> None:
        queues = ("node", "label", "connection", "pause", "module", "retry", "status", "namespace")
        self.queues = {name: Keys() for name in queues}
        self.nodes = {"a": node("a", labels=GPU), "b": node("b")}
        self.triggers = Triggers(
            modules={str(each.ref): each for each in modules},
            nodes=self.nodes,
            states={each.name: each for each in states},
            **{f"{name}_queue": keys for name, keys in self.queues.items()},
        )

    def set_off(self) -> dict[str, set[str]]:
        """Return the keys by queue, of queues that have any."""
        found = {name: {*keys.now, *keys.later} for name, keys in self.queues.items()}
        return {name: keys for name, keys in found.items() if keys}


def change(key: str, old: Any, new: Any, *, fresh: bool = True) -> Change[Any]:
    return Change(key=key, old=old, new=new, fresh=fresh)


def edited(metadata: dict[str, Any]) -> Module:
    return module(spec={"selector": GPU}, metadata=metadata)


ALL_OF_A = {"node": {"a"}, "module": {KEY}, "status": {KEY}}
ALL_NODES = {**ALL_OF_A, "node": {"a", "b"}}


def test_other_rules_have_every_module_judged_anew() -> None:
    going = module("going", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    world = World(module(), going)
    world.triggers.rules_changed()
    assert world.set_off() == {"status": {KEY, str(going.ref)}, "module": {str(going.ref)}}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, FOR_GPU, {**ALL_OF_A, "namespace": {"default"}}),
        (FOR_GPU, None, {**ALL_OF_A, "namespace": {"default"}}),
        (FOR_GPU, module(), ALL_NODES),
        (module(), FOR_GPU, ALL_NODES),
        (FOR_GPU, edited({"annotations": {"a": "b"}}), ALL_OF_A),
        (FOR_GPU, edited({"resourceVersion": "2"}), {}),
        (FOR_GPU, FOR_GPU.model_copy(update={"status": {"observedGeneration": 1}}), {}),
        (FOR_GPU, FOR_GPU.model_copy(update={"status": {"failures": [{}]}}), {"retry": {KEY}}),
    ],
    ids=[
        "new",
        "gone",
        "for more",
        "for less",
        "annotated",
        "version only",
        "status only",
        "failures",
    ],
)
def test_module_plans_the_nodes_that_it_was_or_is_meant_for(
    old: Module | None, new: Module | None, expected: dict[str, set[str]]
) -> None:
    world = World()
    world.triggers.module_changed(change(KEY, old, new))
    assert world.set_off() == expected


def test_module_plans_a_node_that_has_it_though_no_selector_matches() -> None:
    world = World(states=(state(WANTED, name="b"),))
    world.triggers.module_changed(change(KEY, FOR_GPU, None))
    assert world.set_off()["node"] == {"a", "b"}


def test_module_that_went_before_it_could_be_read_plans_the_nodes_that_have_it() -> None:
    world = World(states=(state(WANTED, name="b"),))
    world.triggers.module_changed(change(KEY, None, None))
    assert world.set_off()["node"] == {"b"}


def test_status_of_a_module_is_written_after_a_pause_only() -> None:
    world = World()
    world.triggers.module_changed(change(KEY, None, module()))
    assert world.queues["status"] == Keys(later={KEY: STATUS_SECONDS})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, node("a"), True),
        (node("a"), None, True),
        (node("a"), node("a", resource_version="2"), False),
        (node("a"), node("a", labels=GPU), True),
        (node("a"), node("a", kernel_version="6.2"), True),
        (node("a"), node("a", ready=False), True),
        (node("a"), node("a", paused="true"), True),
    ],
    ids=["new", "gone", "heartbeat", "labelled", "new kernel", "not ready", "paused"],
)
def test_node_is_planned_and_labelled_unless_it_is_a_heartbeat(
    old: Node | None, new: Node | None, expected: bool
) -> None:
    world = World(module())
    world.triggers.node_changed(change("a", old, new))
    every = {"node": {"a"}, "label": {"a"}, "pause": {"a"}, "status": {KEY}}
    assert world.set_off() == (every if expected else {})


def test_node_may_let_deleted_modules_go() -> None:
    world = World(DELETED, module("other"))
    world.triggers.node_changed(change("a", node("a"), None))
    assert world.set_off()["module"] == {KEY}


def test_state_heals_labels_and_counts() -> None:
    world = World(module(), module("other"))
    reported = state(WANTED, name="a", reports=(loaded(WANTED),))
    world.triggers.state_changed(change("a", None, reported))
    assert world.set_off() == {
        "node": {"a"},
        "label": {"a"},
        "connection": {"a"},
        "pause": {"a"},
        "status": {KEY},
    }


def test_state_that_loses_a_module_lets_its_deletion_go_on() -> None:
    world = World(DELETED)
    reported = state(name="a", reports=(loaded(WANTED),))
    world.triggers.state_changed(change("a", reported, state(name="a")))
    assert world.set_off()["module"] == {KEY}


def test_acceptance_of_a_spec_lets_the_deletion_of_a_module_in_neither_part_go_on() -> None:
    world = World(DELETED)
    before, after = state(name="a", accepted=2, observed=2), state(name="a", observed=2)
    world.triggers.state_changed(change("a", before, after))
    assert world.set_off()["module"] == {KEY}
    world = World(DELETED)
    world.triggers.state_changed(change("a", after, after))
    assert "module" not in world.set_off()


def test_module_that_only_a_state_knows_sets_nothing_off() -> None:
    world = World()
    world.triggers.state_changed(change("a", None, state(WANTED, name="a")))
    assert "status" not in world.set_off()


def test_list_of_served_nodes_sets_off_those_that_came_or_went() -> None:
    world = World(module(), states=(state(WANTED, name="a"),))
    world.triggers.served_changed(change("ns/x", frozenset("ac"), frozenset("bc")))
    expected = {"a", "b"}
    assert world.set_off() == {
        "node": expected,
        "label": expected,
        "connection": expected,
        "status": {KEY},
    }


@pytest.mark.parametrize(
    ("other", "planned"),
    [({"kernel_version": "another"}, {"a"}), ({}, {"a", "b"})],
    ids=["another kernel", "has it"],
)
def test_image_plans_the_nodes_of_its_kernel_that_have_its_module_or_should(
    other: dict[str, str], planned: set[str]
) -> None:
    world = World(FOR_GPU, module("other"), states=(state(WANTED, name="b"),))
    world.nodes["b"] = node("b", **other)
    world.nodes["c"] = node("c")
    given = {"module_uid": "uid-simple", "kernel_version": KERNEL}
    blank = dict.fromkeys(set(ImageKey.__slots__) - given.keys(), "")
    world.triggers.image_changed(ImageKey(**blank, **given))
    assert world.set_off() == {"node": planned, "status": {KEY}}


@pytest.mark.parametrize("fresh", [True, False])
def test_what_a_list_brought_comes_after_fresh_changes(fresh: bool) -> None:
    world = World(DELETED)
    world.triggers.module_changed(change(KEY, None, DELETED, fresh=fresh))
    world.triggers.node_changed(change("a", None, node("a"), fresh=fresh))
    world.triggers.state_changed(change("a", None, state(WANTED, name="a"), fresh=fresh))
    told = {p for keys in world.queues.values() for p in keys.now.values()}
    assert told == {Priority.FRESH if fresh else Priority.RESYNC}


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [({}, {}, True), (GPU, GPU, True), (GPU, {}, False), (GPU, {"gpu": "no"}, False)],
)
def test_selector_takes_nodes_that_have_all_of_it(
    selector: dict[str, str], labels: dict[str, str], expected: bool
) -> None:
    assert selects(selector, labels) is expected


MARKED, PLAIN = {CONTAINS_MODULES_LABEL: ""}, {"theirs": "1"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, MARKED, {"namespace": {"team"}}),
        (None, PLAIN, {}),
        (MARKED, {**MARKED, **PLAIN}, {}),
        (MARKED, PLAIN, {"namespace": {"team"}}),
        (PLAIN, MARKED, {"namespace": {"team"}}),
        (PLAIN, None, {}),
    ],
    ids=["marked before us", "new", "other label", "mark taken away", "mark set", "gone"],
)
def test_a_namespace_is_looked_at_when_its_mark_changes(
    old: dict[str, str] | None, new: dict[str, str] | None, expected: dict[str, set[str]]
) -> None:
    world = World()
    world.triggers.namespace_changed(change("team", old, new))
    assert world.set_off() == expected
