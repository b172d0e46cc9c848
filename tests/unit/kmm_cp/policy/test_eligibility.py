"""Whether a node should have a Module."""

from datetime import timedelta

import pytest

from kmm_common.api.names import Reason, ready_label
from kmm_common.desired import ModuleRef
from kmm_cp.policy.eligibility import Eligible, Held, NotEligible, eligibility, name_fits, on_node
from kmm_cp.policy.values import Taint
from support.policy import KERNEL, NOW, entry, failed, loaded, module, node, state

READY = ready_label("default", "simple")
VERSION = "kmm.node.kubernetes.io/version-module.default.simple"
SIMPLE = ModuleRef("default", "simple")
NO_SCHEDULE = Taint(key="k", effect="NoSchedule")
NO_EXECUTE = Taint(key="k", effect="NoExecute", time_added=NOW)


def judged(kmod=None, on=None, nms=None):
    return eligibility(kmod or module(), on or node(), nms, NOW)


def versioned(version="2"):
    return module(container={"version": version})


def reason_of(verdict):
    assert isinstance(verdict, NotEligible | Held), verdict
    return verdict.reason


def test_a_node_that_nothing_speaks_against_is_eligible():
    verdict = judged()
    assert isinstance(verdict, Eligible)
    assert (verdict.match.index, verdict.until) == (0, None)


@pytest.mark.parametrize(
    ("selector", "labels", "eligible"),
    [
        ({}, {}, True),
        ({"a": "1"}, {"a": "1", "b": "2"}, True),
        ({"a": "1", "b": "2"}, {"a": "1"}, False),
        ({"a": "1"}, {"a": "2"}, False),
        ({"a": ""}, {}, False),
        ({"a": ""}, {"a": ""}, True),
    ],
)
def test_every_label_of_the_selector_must_match(selector, labels, eligible):
    verdict = judged(module(spec={"selector": selector}), node(labels=labels))
    assert isinstance(verdict, Eligible) is eligible
    if not eligible:
        assert reason_of(verdict) is Reason.SELECTOR_MISMATCH


def test_the_message_names_the_labels_that_are_missing():
    kmod = module(spec={"selector": {"b": "2", "a": "1", "c": "3"}})
    verdict = judged(kmod, node(labels={"c": "3"}))
    assert verdict.message == "spec.selector wants label a=1, b=2"


@pytest.mark.parametrize(
    ("kmod", "reason"),
    [
        (module(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}), Reason.DELETING),
        (module(spec={"moduleLoader": None}), Reason.NO_MODULE_LOADER),
        (module("n" * 60), Reason.NAME_TOO_LONG),
        (module("simple.version"), Reason.NAME_RESERVED),
        (module(namespace="version-module"), Reason.NAME_RESERVED),
    ],
)
def test_a_module_that_no_node_can_have_is_not_eligible_anywhere(kmod, reason):
    assert reason_of(judged(kmod, nms=state(entry()))) is reason


def test_a_kernel_without_mapping_is_not_eligible():
    verdict = judged(module(mappings=[{"literal": "5.4.0"}]))
    assert reason_of(verdict) is Reason.NO_MATCHING_KERNEL
    assert KERNEL in verdict.message


def test_an_invalid_mapping_holds_what_is_there():
    verdict = judged(module(mappings=[{"regexp": "("}]))
    assert isinstance(verdict, Held)
    assert verdict.reason is Reason.INVALID_MAPPING
    assert "kernelMappings[0].regexp" in verdict.message


@pytest.mark.parametrize(
    ("version", "labels", "expected"),
    [
        ("", {}, Eligible),
        ("", {VERSION: "9"}, Eligible),
        ("2", {VERSION: "2"}, Eligible),
        ("2", {VERSION: "1"}, Held),
        ("2", {VERSION: ""}, Held),
        ("2", {}, NotEligible),
    ],
)
def test_the_version_label_orders_upgrades(version, labels, expected):
    verdict = judged(versioned(version), node(labels=labels), state(entry()))
    assert isinstance(verdict, expected)


def test_messages_about_versions_name_the_label():
    missing, held = judged(versioned()), judged(versioned(), node(labels={VERSION: "1"}))
    assert missing.reason is Reason.VERSION_NOT_ORDERED
    assert held.reason is Reason.VERSION_HELD
    assert VERSION in missing.message
    assert VERSION in held.message


KEPT_OUT = [node(unschedulable=True), node(taints=(NO_SCHEDULE,))]


@pytest.mark.parametrize("on", KEPT_OUT)
def test_a_module_that_is_not_on_the_node_is_kept_out(on):
    for nms in (None, state(), state(reports=(failed(entry()),))):
        assert isinstance(judged(on=on, nms=nms), NotEligible)


@pytest.mark.parametrize("on", KEPT_OUT)
@pytest.mark.parametrize(
    "nms", [state(entry()), state(reports=(loaded(entry()),)), state(entry(), boot_id="")]
)
def test_a_module_that_is_planned_or_loaded_follows_every_change(on, nms):
    assert isinstance(judged(on=on, nms=nms), Eligible)


@pytest.mark.parametrize(
    "on",
    [
        node(labels={READY: ""}, unschedulable=True),
        node(labels={READY: ""}, taints=(NO_SCHEDULE,)),
    ],
)
@pytest.mark.parametrize("nms", [None, state()])
def test_a_module_that_is_labelled_follows_every_change(on, nms):
    assert isinstance(judged(on=on, nms=nms), Eligible)


def test_the_reason_says_whether_it_is_a_cordon_or_a_taint():
    assert reason_of(judged(on=KEPT_OUT[0])) is Reason.CORDONED
    verdict = judged(on=node(taints=(Taint(key="k", value="v", effect="NoSchedule"),)))
    assert reason_of(verdict) is Reason.UNTOLERATED_TAINT
    assert "k=v:NoSchedule" in verdict.message


def test_a_no_execute_taint_drives_off_what_is_loaded():
    verdict = judged(on=node(labels={READY: ""}, taints=(NO_EXECUTE,)), nms=state(entry()))
    assert reason_of(verdict) is Reason.UNTOLERATED_TAINT
    assert "k:NoExecute" in verdict.message


def test_a_no_execute_taint_drives_off_what_is_held_at_another_version():
    on = node(labels={VERSION: "1"}, taints=(NO_EXECUTE,))
    assert isinstance(judged(versioned(), on, state(entry())), NotEligible)


def test_a_node_that_is_not_ready_is_eligible():
    on = node(ready=False, taints=(Taint(key="node.kubernetes.io/not-ready", effect="NoExecute"),))
    assert isinstance(judged(on=on), Eligible)


@pytest.mark.parametrize(
    ("container", "mappings"),
    [({}, None), ({"version": "2"}, None), ({}, [{"regexp": "("}])],
)
def test_a_taint_that_is_tolerated_for_a_time_ends_the_verdict(container, mappings):
    tolerations = [{"operator": "Exists", "tolerationSeconds": 30}]
    kmod = module(container=container, mappings=mappings, spec={"tolerations": tolerations})
    verdict = judged(kmod, node(labels={VERSION: "1"}, taints=(NO_EXECUTE,)))
    assert verdict.until == NOW + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("on", "nms", "expected"),
    [
        (node(), None, False),
        (node(), state(), False),
        (node(), state(entry("other"), reports=(loaded(entry("other")),)), False),
        (node(), state(reports=(failed(entry()),)), False),
        (node(), state(entry()), True),
        (node(), state(reports=(loaded(entry()),)), True),
        (node(labels={READY: ""}), None, True),
        (node(labels={READY: ""}), state(), True),
    ],
)
def test_a_module_is_on_a_node_that_plans_loads_or_labels_it(on, nms, expected):
    assert on_node(SIMPLE, on, nms) is expected


@pytest.mark.parametrize(
    ("name", "version", "fits"),
    [("n" * 49, "", True), ("n" * 50, "", False), ("n" * 40, "1", True), ("n" * 41, "1", False)],
)
def test_a_name_fits_if_all_labels_that_it_needs_do(name, version, fits):
    assert name_fits(module(name, container={"version": version})) is fits
