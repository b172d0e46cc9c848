"""The status of a Module."""

from datetime import timedelta

import pytest

from kmm_common.api.module import ModuleStatus
from kmm_common.api.names import (
    MODULE_FINALIZER,
    PAUSED_ANNOTATION,
    TOLERATED_FAILURES_ANNOTATION,
)
from kmm_common.clock import rfc3339
from kmm_common.desired import ModuleState
from kmm_cp.policy.module_status import Rules, module_status
from kmm_cp.policy.plan import plan_node
from support.policy import (
    DIGEST,
    KERNEL,
    NOW,
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

WANTED = entry()
LOADED = state(WANTED, reports=(loaded(WANTED),))
DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
RULES = Rules()


def status(kmod=None, nodes=None, states=(LOADED,), lookup=pinned, rules=RULES, now=NOW):
    found = module_status(
        kmod or module(),
        [node()] if nodes is None else nodes,
        {each.name: each for each in states},
        lookup,
        live=lambda name: False,
        rules=rules,
        now=now,
    )
    ModuleStatus.model_validate(found)
    return found


def conditions(found):
    return {each["type"]: each for each in found["conditions"]}


def test_a_module_that_is_loaded_everywhere_is_ready():
    common = {"observedGeneration": 1, "lastTransitionTime": rfc3339(NOW), "reason": "Ready"}
    common["message"] = "loaded on 1 of 1 nodes"
    assert status() == {
        "observedGeneration": 1,
        "moduleLoader": {
            "nodesMatchingSelectorNumber": 1,
            "desiredNumber": 1,
            "availableNumber": 1,
        },
        "conditions": [
            {"type": "Ready", "status": "True", **common},
            {"type": "Reconciling", "status": "False", **common},
            {"type": "Stalled", "status": "False", **common},
        ],
        "images": [
            {
                "kernel": KERNEL,
                "image": "registry.example/kmod:1",
                "digest": DIGEST,
                "state": "Exists",
            }
        ],
        "failures": [],
    }


@pytest.mark.parametrize("lookup", [pinned, pending, unresolved])
def test_a_status_that_has_nothing_new_to_say_is_the_same(lookup):
    """A control plane that was restarted has asked no registry yet, and writes nothing."""
    before = status()
    again = status(module(status=before), lookup=lookup, now=NOW + timedelta(hours=1))
    assert again == before


def test_what_others_wrote_into_the_status_stays():
    custom = {
        "type": "Custom",
        "status": "True",
        "lastTransitionTime": rfc3339(NOW),
        "reason": "R",
        "message": "m",
    }
    found = status(module(status={"devicePlugin": {"desiredNumber": 3}, "conditions": [custom]}))
    assert found["devicePlugin"] == {"desiredNumber": 3}
    assert found["conditions"][-1] == custom


def test_counters_are_upstream_s():
    nodes = [node(f"node-{number}") for number in range(1, 5)]
    nodes.append(node("cordoned", unschedulable=True))
    states = [
        LOADED,
        state(WANTED, name="node-2"),
        state(WANTED, name="node-3", reports=(failed(WANTED),)),
    ]
    assert status(nodes=nodes, states=states)["moduleLoader"] == {
        "nodesMatchingSelectorNumber": 4,
        "desiredNumber": 3,
        "availableNumber": 1,
    }


@pytest.mark.parametrize(
    ("annotations", "setting", "stalled"),
    [
        ({}, "0", "True"),
        ({}, "1", "False"),
        ({}, "50%", "False"),
        ({TOLERATED_FAILURES_ANNOTATION: "0"}, "1", "True"),
        ({TOLERATED_FAILURES_ANNOTATION: "1"}, "0", "False"),
    ],
)
def test_the_annotation_overrides_how_many_failures_are_tolerated(annotations, setting, stalled):
    found = conditions(
        status(
            module(metadata={"annotations": annotations}),
            nodes=[node(), node("node-2")],
            states=[LOADED, state(WANTED, name="node-2", reports=(failed(WANTED),))],
            rules=Rules(tolerated_failures=setting),
        )
    )
    assert found["Stalled"]["status"] == stalled
    assert found["Ready"]["status"] == ("False" if stalled == "True" else "True")
    assert "1 failed: node-2 (ImageNotFound: no such tag)" in found["Ready"]["message"]


def test_a_new_generation_is_not_ready_before_it_is_planned():
    kmod = module(modprobe={"parameters": ["x=1"]}, metadata={"generation": 2})
    found = conditions(status(kmod))
    assert (found["Ready"]["status"], found["Reconciling"]["status"]) == ("False", "True")
    assert found["Ready"]["observedGeneration"] == 2


def test_fields_that_are_not_acted_on_are_named():
    kmod = module(spec={"imageRebuildTriggerGeneration": 1})
    found = conditions(status(kmod))
    assert "spec.imageRebuildTriggerGeneration" in found["NotActedOn"]["message"]
    assert found["Ready"]["status"] == "True"


def test_an_image_that_is_missing_is_said_by_kernel():
    (row,) = status(states=(), lookup=missing)["images"]
    assert (row["kernel"], row["state"]) == (KERNEL, "Missing")


def test_a_deletion_that_waits_says_for_what():
    report = loaded(WANTED, state=ModuleState.UNLOADING)
    found = conditions(status(module(metadata=DELETED), states=[state(reports=(report,))]))
    waits = found["DeletionWaits"]
    assert waits["message"] == "node-1: WaitingForUnload: the daemon says Unloading"
    assert found["Ready"]["reason"] == "Deleting"


def test_a_deletion_that_waits_names_the_finalizers_of_others():
    report = loaded(WANTED, state=ModuleState.UNLOADING)
    held = {"finalizers": ["a.test/x", MODULE_FINALIZER, "b.test/y"]}
    found = status(module(metadata=DELETED | held), states=[state(reports=(report,))])
    assert conditions(found)["DeletionWaits"]["message"].endswith(
        "the daemon says Unloading; also held by finalizers of others: a.test/x, b.test/y"
    )


def test_a_deletion_that_only_others_hold_names_their_finalizers():
    kmod = module(metadata=DELETED | {"finalizers": ["a.test/x"]})
    found = conditions(status(kmod, states=[state()]))
    assert found["Ready"]["reason"] == "Deleting"
    assert found["Ready"]["message"] == (
        "being deleted; 0 nodes are still planned to have it; "
        "only held by finalizers of others: a.test/x"
    )
    assert "DeletionWaits" not in found


def test_a_deletion_names_ten_nodes_at_most():
    report = loaded(WANTED, state=ModuleState.UNLOADING)
    names = [f"node-{number:02}" for number in range(12)]
    found = status(
        module(metadata=DELETED),
        nodes=[node(name) for name in names],
        states=[state(name=name, reports=(report,)) for name in names],
    )
    message = conditions(found)["DeletionWaits"]["message"]
    assert message.endswith("; and 2 more nodes")
    assert message.count("Unloading") == 10


@pytest.mark.parametrize("metadata", [{}, DELETED])
def test_a_module_that_is_not_deleted_or_unloaded_waits_for_nothing(metadata):
    assert "DeletionWaits" not in conditions(status(module(metadata=metadata), states=[state()]))


def test_a_deletion_gives_nodes_up_after_the_setting():
    away = state(reports=(loaded(WANTED),), connected=False, since=rfc3339(NOW))
    kmod, later = module(metadata=DELETED), NOW + timedelta(seconds=10)
    assert "DeletionWaits" in conditions(status(kmod, states=[away], now=later))
    rules = Rules(disconnected_seconds=10)
    assert "DeletionWaits" not in conditions(status(kmod, states=[away], now=later, rules=rules))


@pytest.mark.parametrize("unplanned", [module(spec={"selector": {"a": "b"}}), module("n" * 60)])
def test_a_module_without_nodes_has_no_images(unplanned):
    assert status(unplanned)["images"] == []


def test_what_is_planned_and_loaded_is_ready():
    """Plan and status agree on what an entry is, with every field in use."""
    kmod = module(
        container={"version": "2", "inTreeModulesToRemove": ["old"], "imagePullPolicy": "Always"},
        modprobe={"parameters": ["x=1"], "firmwarePath": "/firmware"},
        spec={"imageRepoSecret": {"name": "pull"}},
    )
    on = node(labels={"kmm.node.kubernetes.io/version-module.default.simple": "2"})
    plan = plan_node(on, [kmod], None, pinned, NOW)
    assert plan.modules
    nms = state(*plan.modules, reports=tuple(map(loaded, plan.modules)))
    assert conditions(status(kmod, nodes=[on], states=[nms]))["Ready"]["status"] == "True"


def test_a_paused_module_says_so_and_is_ready_where_nothing_is_held_back():
    paused = {"annotations": {PAUSED_ANNOTATION: "true"}}
    found = conditions(status(module(metadata=paused)))
    assert (found["Paused"]["status"], found["Paused"]["reason"]) == ("True", "Paused")
    assert (found["Ready"]["status"], found["Ready"]["reason"]) == ("True", "Ready")
    changed = module(metadata=paused, modprobe={"parameters": ["speed=2"]})
    found = conditions(status(changed))
    assert (found["Ready"]["status"], found["Reconciling"]["status"]) == ("False", "True")
    assert found["Ready"]["message"] == (
        "loaded on 0 of 1 nodes; held back by the pause of the Module on: node-1"
    )
    assert "Paused" not in conditions(status())
