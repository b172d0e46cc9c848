"""The whole desired state of one node."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.api.names import ready_label
from kmm_common.desired import Modprobe, ModuleRef
from kmm_common.errors import TransientError
from kmm_cp.policy.digests import Pending, Pinned, Unresolved
from kmm_cp.policy.entry import with_digest
from kmm_cp.policy.plan import NodePlan, plan_node
from kmm_cp.policy.values import Taint
from support.policy import (
    BOOT,
    DIGEST,
    KERNEL,
    NOW,
    OTHER_DIGEST,
    entry,
    failed,
    loaded,
    missing,
    module,
    node,
    pending,
    pinned,
    state,
    unresolved,
)

READY = {ready_label("default", "simple"): ""}
SIMPLE = ModuleRef("default", "simple")
VERSION = "kmm.node.kubernetes.io/version-module.default.simple"
DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


def planned(*modules, on=None, nms=None, lookup=pinned, now=NOW):
    return plan_node(on or node(), modules, nms, lookup, now)


def test_a_node_without_modules_has_an_empty_plan():
    assert planned() == NodePlan(modules=())


def test_a_module_is_planned_with_the_digest_that_its_image_stands_for():
    assert planned(module()) == NodePlan(modules=(entry(),))


def test_modules_are_ordered_by_namespace_and_name():
    modules = [module("b"), module("c", namespace="a"), module("a")]
    plan = planned(*modules)
    assert [str(each.ref) for each in plan.modules] == ["a/c", "default/a", "default/b"]


def test_a_plan_does_not_depend_on_what_the_node_had():
    stale = replace(entry(), modprobe=replace(entry().modprobe, parameters=("edited=1",)))
    assert planned(module(), nms=state(stale)).modules == (entry(),)


def test_a_node_whose_kernel_is_not_known_yet_is_not_planned():
    assert planned(module(), on=node(kernel_version=""), nms=state(entry())).modules is None


@pytest.mark.parametrize(
    ("kmod", "on"),
    [
        (module(metadata=DELETED), node()),
        (module(spec={"selector": {"a": "b"}}), node()),
        (module(mappings=[{"literal": "5.4.0"}]), node()),
        (module(container={"version": "1"}), node()),
        (module(), node(taints=(Taint(key="k", effect="NoExecute"),))),
    ],
    ids=["deleted", "not selected", "no mapping", "no version ordered", "taint"],
)
def test_a_module_that_is_not_eligible_is_unloaded(kmod, on):
    plan = planned(kmod, on=on, nms=state(entry(), reports=(loaded(entry()),)))
    assert plan.modules == ()


def test_a_module_with_a_name_too_long_is_not_planned_and_the_others_are():
    assert planned(module(), module("n" * 60)).modules == (entry(),)


def test_a_module_that_exists_no_more_is_unloaded():
    assert planned(nms=state(entry())).modules == ()


KEEPING = [
    (module(mappings=[{"regexp": "("}]), node(), pinned),
    (module(mappings=[{"regexp": ".", "containerImage": "${"}]), node(), pinned),
    (module(container={"version": "2"}), node(labels={VERSION: "1"}), pinned),
    (
        module(mappings=[{"regexp": ".", "containerImage": "r.example/new:1"}]),
        node(),
        pending,
    ),
]


@pytest.mark.parametrize(("kmod", "on", "lookup"), KEEPING)
def test_a_module_of_which_nothing_new_can_be_said_stays_as_it_is(kmod, on, lookup):
    before = replace(entry(), kernel_version="5.4.0", uid="older")
    plan = planned(kmod, on=on, nms=state(before), lookup=lookup)
    assert plan.modules == (before,)


@pytest.mark.parametrize(("kmod", "on", "lookup"), KEEPING)
def test_a_module_of_which_nothing_was_said_stays_out(kmod, on, lookup):
    plan = planned(kmod, module("other"), on=on, nms=state(entry("other")), lookup=lookup)
    assert plan.modules == (entry("other"),)


@pytest.mark.parametrize(("kmod", "on", "lookup"), KEEPING)
def test_a_first_spec_is_not_written_without_a_module_that_may_be_on_the_node(kmod, on, lookup):
    labelled = replace(on, labels={**on.labels, **READY})
    plan = planned(kmod, module("other"), on=labelled, lookup=lookup)
    assert plan.modules is None


@pytest.mark.parametrize(("kmod", "on", "lookup"), KEEPING)
def test_an_edited_spec_vouches_for_no_entry(kmod, on, lookup):
    labelled = replace(on, labels={**on.labels, **READY})
    edited = replace(state(entry(), entry("other")), intact=False)
    plan = planned(kmod, module("other"), on=labelled, nms=edited, lookup=lookup)
    assert plan.modules is None


def test_an_edited_spec_is_planned_anew_where_everything_is_known():
    edited = replace(state(entry("other")), intact=False)
    assert planned(module(), nms=edited).modules == (entry(),)


@pytest.mark.parametrize(("kmod", "on", "lookup"), KEEPING[:3])
def test_a_first_spec_is_written_without_a_module_that_was_never_on_the_node(kmod, on, lookup):
    assert planned(kmod, module("other"), on=on, lookup=lookup).modules == (entry("other"),)


def test_a_first_spec_waits_for_every_image():
    def one_pending(of):
        return Pending() if of.name == "simple" else Pinned(DIGEST)

    assert planned(module(), module("other"), lookup=one_pending).modules is None


def test_a_module_that_cannot_be_decided_stops_no_other_and_keeps_its_entry():
    def broken_for_simple(of):
        if of.name == "simple":
            raise TransientError("no answer for this one")
        return Pinned(DIGEST)

    plan = planned(module(), module("other"), nms=state(entry()), lookup=broken_for_simple)
    assert plan.modules == (entry("other"), entry())


@pytest.mark.parametrize("seconds", [10**12, 2**63 - 1, -(10**12)])
def test_a_toleration_of_any_length_stops_no_module(seconds):
    tolerations = [{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]
    kmod = module(spec={"tolerations": tolerations})
    ever = [{"operator": "Exists"}]
    other = module("other", spec={"tolerations": ever})
    plan = planned(kmod, other, on=node(taints=(Taint(key="k", effect="NoExecute"),)))
    assert entry("other") in plan.modules
    assert (entry() in plan.modules) == (seconds > 0)
    assert plan.requeue_after is None


@pytest.mark.parametrize("lookup", [unresolved, missing])
def test_an_image_that_was_not_found_out_is_left_to_the_node(lookup):
    assert planned(module(), lookup=lookup).modules == (entry(digest=""),)


@pytest.mark.parametrize("lookup", [pending, unresolved, missing])
def test_a_registry_that_is_away_changes_nothing(lookup):
    assert planned(module(), nms=state(entry()), lookup=lookup).modules == (entry(),)


def test_a_digest_that_the_daemon_found_out_is_pinned():
    open_entry = entry(digest="")
    nms = state(open_entry, reports=(loaded(open_entry, digest=OTHER_DIGEST),))
    plan = planned(module(), nms=nms, lookup=unresolved)
    assert plan.modules == (entry(digest=OTHER_DIGEST),)


def test_a_new_kernel_gets_its_own_entry():
    plan = planned(module(), on=node(kernel_version="6.1.1+"), nms=state(entry()))
    assert plan.modules == (with_digest(replace(entry(), kernel_version="6.1.1+"), DIGEST),)


def test_a_module_that_was_made_anew_is_planned_with_its_new_uid():
    plan = planned(module(metadata={"uid": "new"}), nms=state(entry()))
    assert [each.uid for each in plan.modules] == ["new"]
    assert plan.modules[0].config_hash == entry().config_hash


SHARED = {"moduleName": "drv"}
OLD = {"creationTimestamp": "2020-01-01T00:00:00Z"}


def conflicts(*modules, **given):
    plan = planned(*modules, **given)
    return {each.name: each.conflicts_with for each in plan.modules}


def test_the_older_of_two_modules_has_the_kernel_module():
    a, b = module("a", modprobe=SHARED), module("b", modprobe=SHARED, metadata=OLD)
    assert conflicts(a, b) == {"a": "default/b", "b": ""}


def drv(name, **changes):
    """Return the entry of a Module that has the kernel module `drv`."""
    return entry(name, modprobe=Modprobe(module_name="drv"), **changes)


@pytest.mark.parametrize(
    ("on", "status", "winner"),
    [
        (node(), {}, "a"),
        (node(boot_id="new"), {"connected": True}, "a"),
        (node(boot_id="new"), {"connected": False}, "b"),
        (node(), {"boot_id": ""}, "b"),
    ],
)
def test_the_one_in_the_kernel_of_the_running_boot_has_it(on, status, winner):
    a, b = module("a", modprobe=SHARED), module("b", modprobe=SHARED, metadata=OLD)
    lost = drv("b", conflicts_with="default/a")
    nms = state(drv("a"), lost, reports=(loaded(drv("a")), failed(lost)), **status)
    assert [name for name, other in conflicts(a, b, on=on, nms=nms).items() if not other] == [
        winner
    ]


def test_a_module_that_is_given_the_kernel_module_of_another_stands_back():
    a, b = module("a", modprobe=SHARED, metadata=OLD), module("b", modprobe=SHARED)
    before = (entry("a"), drv("b"))
    nms = state(*before, reports=tuple(map(loaded, before)))
    plan = planned(a, b, nms=nms)
    assert {each.name: each.conflicts_with for each in plan.modules} == {"a": "default/b", "b": ""}
    # Its own, older module is in the kernel until the daemon has unloaded it.
    again = planned(a, b, nms=replace(nms, modules=plan.modules))
    assert again.modules == plan.modules


def test_the_holder_stays_it_with_other_parameters():
    a = module("a", modprobe={**SHARED, "parameters": ["speed=2"]})
    b = module("b", modprobe=SHARED, metadata=OLD)
    nms = state(drv("a"), drv("b", conflicts_with="default/a"), reports=(loaded(drv("a")),))
    assert conflicts(a, b, nms=nms) == {"a": "", "b": "default/a"}


def test_an_edited_spec_takes_no_kernel_module_from_who_has_it():
    a, b = module("a", modprobe=SHARED), module("b", modprobe=SHARED, metadata=OLD)
    edited = replace(state(drv("b"), reports=(loaded(drv("a")),)), intact=False)
    assert conflicts(a, b, nms=edited) == {"a": "", "b": "default/a"}


def test_the_other_takes_over_when_the_winner_goes():
    a, b = module("a", modprobe=SHARED), module("b", modprobe=SHARED, metadata={**OLD, **DELETED})
    nms = state(reports=(loaded(entry("b")),))
    assert conflicts(a, b, nms=nms) == {"a": ""}


def test_a_module_that_is_in_no_cluster_stands_back():
    a = module("a", modprobe=SHARED, metadata={"creationTimestamp": None})
    assert conflicts(a, module("b", modprobe=SHARED)) == {"a": "default/b", "b": ""}


def test_the_plan_is_made_again_when_the_first_toleration_ends():
    taints = tuple(Taint(key=key, effect="NoExecute", time_added=NOW) for key in "ab")
    kmods = [
        module(name, spec={"tolerations": [{"operator": "Exists", "tolerationSeconds": seconds}]})
        for name, seconds in (("a", 90), ("b", 30))
    ]
    plan = planned(*kmods, on=node(taints=taints))
    assert plan.requeue_after == 30
    later = planned(*kmods, on=node(taints=taints), now=NOW + timedelta(seconds=30))
    assert [each.name for each in later.modules] == ["a"]
    assert later.requeue_after == 60


# What follows makes whole clusters up.

NAMES = ("a", "b", "c")
IMAGES = st.sampled_from(
    ["r.example/k:1", "r.example/k:$KERNEL_XYZ", "${", f"r.example/k@{DIGEST}"]
)
MAPPINGS = st.one_of(
    st.just([{"literal": "5.4.0"}]),
    st.just([{"regexp": "("}]),
    IMAGES.map(lambda image: [{"regexp": ".", "containerImage": image}]),
)


@st.composite
def kmods(draw):
    """Up to three Modules, some of one kernel module, some not for this node."""
    return [
        module(
            name,
            mappings=draw(MAPPINGS),
            modprobe={"moduleName": draw(st.sampled_from(["x", "y"]))},
            container={"version": draw(st.sampled_from(["", "1", "2"]))},
            metadata=draw(st.sampled_from([{}, OLD, DELETED])),
        )
        for name in draw(st.sets(st.sampled_from(NAMES)))
    ]


@st.composite
def nodes(draw):
    """A node with any labels, taints and cordon."""
    ordered = draw(st.sets(st.sampled_from(NAMES)))
    ready = draw(st.sets(st.sampled_from(NAMES)))
    domain = "kmm.node.kubernetes.io"
    labels = {f"{domain}/version-module.default.{name}": "1" for name in ordered}
    labels |= {ready_label("default", name): "" for name in ready}
    taint = st.builds(Taint, key=st.just("k"), effect=st.sampled_from(["NoSchedule", "NoExecute"]))
    return node(
        labels=labels,
        taints=draw(st.lists(taint, max_size=1).map(tuple)),
        unschedulable=draw(st.booleans()),
        boot_id=draw(st.sampled_from([BOOT, "new"])),
    )


@st.composite
def states(draw):
    """No NodeModulesState, or one with any entries and reports."""
    if draw(st.booleans()):
        return None
    entries = [entry(name) for name in sorted(draw(st.sets(st.sampled_from(NAMES))))]
    inside = draw(st.sets(st.sampled_from(NAMES)))
    return state(*entries, reports=tuple(loaded(entry(name)) for name in sorted(inside)))


ANSWERS = st.fixed_dictionaries(
    dict.fromkeys(
        NAMES,
        st.sampled_from([Pinned(DIGEST), Pending(), Unresolved(reason="x", message="y")]),
    )
)


@given(kmods(), nodes(), states(), ANSWERS, st.randoms())
def test_the_same_inputs_in_any_order_give_the_same_plan(modules, on, nms, answers, random):
    plan = planned(*modules, on=on, nms=nms, lookup=lambda of: answers[of.name])
    shuffled = random.sample(modules, len(modules))
    assert planned(*shuffled, on=on, nms=nms, lookup=lambda of: answers[of.name]) == plan


@given(kmods(), nodes(), states(), ANSWERS)
def test_a_plan_that_was_written_is_planned_again(modules, on, nms, answers):
    plan = planned(*modules, on=on, nms=nms, lookup=lambda of: answers[of.name])
    if plan.modules is not None:
        written = replace(nms or state(boot_id=""), modules=plan.modules)
        again = planned(*modules, on=on, nms=written, lookup=lambda of: answers[of.name])
        assert again.modules == plan.modules


@given(kmods(), nodes(), states(), ANSWERS)
def test_a_plan_has_entries_of_the_modules_there_are_in_order(modules, on, nms, answers):
    plan = planned(*modules, on=on, nms=nms, lookup=lambda of: answers[of.name])
    entries = [each.ref for each in plan.modules or ()]
    assert set(entries) <= {each.ref for each in modules}
    assert entries == sorted(entries)


@given(kmods(), nodes(), states())
def test_no_answer_of_a_registry_unloads(modules, on, nms):
    with_images = planned(*modules, on=on, nms=nms, lookup=pinned)
    for lookup in (pending, unresolved, missing):
        without = planned(*modules, on=on, nms=nms, lookup=lookup)
        if nms is None or with_images.modules is None or without.modules is None:
            continue
        had = {each.ref for each in nms.modules}
        wanted = {each.ref for each in with_images.modules}
        assert had & wanted <= {each.ref for each in without.modules}


@given(kmods(), nodes(), states(), ANSWERS)
def test_entries_are_for_the_node_s_kernel_unless_kept(modules, on, nms, answers):
    plan = planned(*modules, on=on, nms=nms, lookup=lambda of: answers[of.name])
    kept = {each.ref for each in (nms.modules if nms else ())}
    for each in plan.modules or ():
        assert each.ref in kept or each.kernel_version == KERNEL


def unread(*modules, on=None, nms=None):
    return plan_node(on or node(), modules, nms, pinned, NOW, unreadable={SIMPLE})


def test_an_unreadable_module_keeps_the_entry_that_the_node_has():
    had = replace(entry(), image="example.test/older:1")
    assert unread(nms=state(had)).modules == (had,)
    assert unread(module(), nms=state(had)).modules == (had,)


def test_an_unreadable_module_is_new_on_no_node():
    assert unread(module(), nms=state()).modules == ()


@pytest.mark.parametrize("nms", [None, replace(state(), intact=False)], ids=["none", "edited"])
def test_nothing_is_planned_where_an_unreadable_module_may_be_on_a_node_without_a_state(nms):
    assert unread(on=node(labels=READY), nms=nms).modules is None
    assert unread(nms=nms).modules == ()


@pytest.mark.parametrize("winner", ["", "default/twin"])
def test_an_unreadable_module_wins_or_stands_back_as_it_did(winner):
    twin = module("twin", modprobe={"moduleName": "simple"})
    had = replace(entry(), conflicts_with=winner)
    first, second = unread(twin, nms=state(had)).modules
    assert (first, second.conflicts_with) == (had, "" if winner else "default/simple")
