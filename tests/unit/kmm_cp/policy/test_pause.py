"""What is held by hand."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.api.names import PAUSED_ANNOTATION, ready_label
from kmm_common.clock import rfc3339
from kmm_common.desired import Modprobe
from kmm_cp.policy.pause import (
    conditions_to_write,
    module_pause,
    module_paused,
    node_pause,
    node_paused,
)
from kmm_cp.policy.plan import NodePlan, plan_node
from support.policy import NOW, entry, loaded, module, node, pending, pinned, state

PAUSED = {"annotations": {PAUSED_ANNOTATION: "true"}}
DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
READY = {ready_label("default", "simple"): ""}
OTHERS = {"type": "Ready", "status": "True", "lastTransitionTime": "2025-01-01T00:00:00Z"}


def planned(*modules, on=None, nms=None, lookup=pinned):
    return plan_node(on or node(), modules, nms, lookup, NOW)


def annotated(value):
    return module(metadata={"annotations": {PAUSED_ANNOTATION: value}})


def test_only_true_pauses():
    assert module_pause(annotated("true")).on
    assert node_pause(node(paused="true")).on
    for value in ("false", None):
        assert not node_pause(node(paused=value)).on
        assert node_paused(node(paused=value)) is None
    assert module_paused(module()) is None


@pytest.mark.parametrize("value", ["", "True", "yes", "1", " true", "x" * 1000])
def test_another_value_is_said_with_the_remedy_and_not_taken(value):
    for pause, condition in (
        (module_pause(annotated(value)), module_paused(annotated(value))),
        (node_pause(node(paused=value)), node_paused(node(paused=value))),
    ):
        assert not pause.on
        assert condition is not None
        assert (condition.status, condition.reason) == (False, "InvalidAnnotation")
        assert f"annotation {PAUSED_ANNOTATION} is " in condition.message
        assert "write true" in condition.message
        assert len(condition.message) < 200
    assert planned(annotated(value)).modules == (entry(),)
    assert planned(module(), on=node(paused=value)).modules == (entry(),)


WISHES = [
    {"modprobe": {"parameters": ["speed=2"]}},
    {"spec": {"selector": {"a": "b"}}},
    {"mappings": [{"literal": "5.4.0"}]},
    {"mappings": [{"regexp": "("}]},
    {"container": {"version": "1"}},
    {"metadata": {**PAUSED, **DELETED}},
    {"metadata": {**PAUSED, "uid": "made anew"}},
]


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("lookup", [pinned, pending])
def test_the_entry_of_a_paused_module_stays_whatever_its_spec_says(wish, lookup):
    before = replace(entry(), kernel_version="5.4.0", uid="older")
    kmod = module(**{"metadata": PAUSED, **wish})
    plan = planned(kmod, module("other"), nms=state(before), lookup=lookup)
    assert before in plan.modules


@pytest.mark.parametrize("wish", WISHES)
def test_a_paused_module_comes_to_no_node(wish):
    kmod = module(**{"metadata": PAUSED, **wish})
    assert planned(kmod, module("other"), nms=state()).modules == (entry("other"),)
    assert planned(kmod, module("other")).modules == (entry("other"),)


def test_a_first_spec_is_not_written_without_a_paused_module_that_may_be_on_the_node():
    assert planned(module(metadata=PAUSED), on=node(labels=READY)).modules is None
    edited = replace(state(entry(), reports=(loaded(entry()),)), intact=False)
    assert planned(module(metadata=PAUSED), nms=edited).modules is None


@pytest.mark.parametrize(
    "modules", [(), (module(modprobe={"parameters": ["a=1"]}),), (module(), module("other"))]
)
def test_the_spec_of_a_paused_node_stays(modules):
    nms = state(entry(), entry("third"))
    assert planned(*modules, on=node(paused="true"), nms=nms) == NodePlan(modules=nms.modules)


def test_a_paused_node_gets_no_first_spec_and_no_edited_one_signed():
    on = node(paused="true")
    assert planned(module(), on=on).modules is None
    assert planned(module(), on=on, nms=replace(state(entry()), intact=False)).modules is None


SHARED = {"moduleName": "drv"}


def drv(name, **changes):
    """Return the entry of a Module that has the kernel module `drv`."""
    return entry(name, modprobe=Modprobe(module_name="drv"), **changes)


def test_a_paused_module_keeps_its_kernel_module_from_an_older_one_that_comes():
    a = module("a", modprobe=SHARED, metadata=PAUSED)
    b = module("b", modprobe=SHARED, metadata={"creationTimestamp": "2020-01-01T00:00:00Z"})
    plan = planned(a, b, nms=state(drv("a")))
    assert plan.modules == (drv("a"), drv("b", conflicts_with="default/a"))


def test_a_paused_module_that_stands_back_takes_over_only_after_the_pause():
    waiting = drv("a", conflicts_with="default/b")
    held = module("a", modprobe=SHARED, metadata=PAUSED)
    assert planned(held, nms=state(waiting)).modules == (waiting,)
    assert planned(module("a", modprobe=SHARED), nms=state(waiting)).modules == (drv("a"),)


def test_a_paused_module_without_a_name_stands_in_nobodys_way():
    raw = entry("a", modprobe=Modprobe(module_name=""))
    other = module("b", modprobe={"moduleName": "", "rawArgs": {"load": ["x"]}})
    plan = planned(module("a", metadata=PAUSED), other, nms=state(raw))
    assert [each.conflicts_with for each in plan.modules] == ["", ""]


@st.composite
def nodes_with_pauses(draw):
    """Return Modules, those that are paused, and a NodeModulesState of a plan for all of them."""
    names = draw(st.lists(st.sampled_from("abcde"), unique=True, min_size=1))
    drivers = {name: draw(st.sampled_from(["drv", "one", "two"])) for name in names}
    had = draw(st.lists(st.sampled_from(names), unique=True))
    before = planned(*(module(name, modprobe={"moduleName": drivers[name]}) for name in had))
    in_kernel = [each for each in before.modules if draw(st.booleans())]
    paused = set(draw(st.lists(st.sampled_from(names))))
    wanted = [
        module(
            name,
            modprobe={
                "moduleName": draw(st.sampled_from(["drv", "one", "two"])),
                "parameters": draw(st.sampled_from([[], ["speed=2"]])),
            },
            spec=draw(st.sampled_from([{}, {"selector": {"a": "b"}}])),
            metadata={**(PAUSED if name in paused else {}), **draw(st.sampled_from([{}, DELETED]))},
        )
        for name in names
    ]
    return wanted, paused, state(*before.modules, reports=tuple(map(loaded, in_kernel)))


@given(nodes_with_pauses())
def test_no_plan_touches_what_is_paused_nor_gives_two_modules_one_kernel_module(world):
    wanted, paused, nms = world
    plan = planned(*wanted, nms=nms)
    assert [each for each in plan.modules if each.name in paused] == [
        each for each in nms.modules if each.name in paused
    ]
    owned = [each.modprobe.module_name for each in plan.modules if not each.conflicts_with]
    assert len(owned) == len(set(owned))
    assert planned(*wanted, nms=replace(nms, modules=plan.modules)).modules == plan.modules


def said(*conditions):
    nms = state()
    return replace(nms, status=replace(nms.status, conditions=conditions))


def to_write(*args):
    conditions = conditions_to_write(*args)
    assert conditions is not None
    return conditions


def test_a_paused_node_says_so_on_its_state_and_since_when():
    on = node(paused="true")
    (written, others) = to_write(on, said(OTHERS), NOW)
    assert others == OTHERS
    assert (written["type"], written["status"], written["reason"]) == ("Paused", "True", "Paused")
    assert written["lastTransitionTime"] == rfc3339(NOW)
    later = NOW + timedelta(hours=1)
    assert conditions_to_write(on, said(OTHERS, written), later) is None
    assert conditions_to_write(node(), said(OTHERS, written), later) == [OTHERS]
    (told, _) = to_write(node(paused="on"), said(OTHERS, written), later)
    assert (told["status"], told["lastTransitionTime"]) == ("False", rfc3339(later))


def test_a_node_that_is_not_paused_has_nothing_to_write():
    assert conditions_to_write(node(), said(OTHERS), NOW) is None
    assert conditions_to_write(node(paused="false"), said(), NOW) is None
