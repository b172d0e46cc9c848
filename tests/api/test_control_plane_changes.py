"""Nodes, Modules and NodeModulesStates that change, go, come back, or are edited by hand."""

import asyncio
import copy
import json
from functools import partial

import pytest

from kmm_common.api.names import CONTAINS_MODULES_LABEL
from kmm_sandbox.kubeapi import ApiError, Object
from support.fleet import STATES, Fleet, eventually
from support.simnode import NODES, SimNode


async def _said(fleet: Fleet, node: SimNode, name: str = "m") -> dict[str, object]:
    """Return state and reason that a node's status has for a Module."""
    report = (await fleet.reports(node)).get(name, {})
    return {"state": report.get("state"), "reason": report.get("error", {}).get("reason")}


def _modprobes(node: SimNode) -> list[str]:
    return [what for what, _ in node.kernel.calls if what != "prepare"]


# Nodes.


async def test_node_that_joins_later_gets_the_module(fleet: Fleet) -> None:
    await fleet.node("a")
    await fleet.apply()
    await fleet.loaded()
    late = await fleet.node("b")
    await fleet.loaded(late)


async def test_daemon_that_comes_after_the_plan_is_made_gets_it(fleet: Fleet) -> None:
    node = await fleet.node(daemon=False)
    await fleet.apply()
    await eventually(lambda: fleet.entries(node))
    await node.start()
    await fleet.loaded(node)


async def test_deleted_node_takes_its_state_along_and_is_counted_no_more(fleet: Fleet) -> None:
    await fleet.three()
    await fleet.apply()
    await fleet.loaded()
    gone = fleet.nodes.pop("c")
    await gone.stop()
    await asyncio.to_thread(gone.unregister)
    await eventually(lambda: fleet.state(gone), lambda state: state is None)
    await eventually(
        fleet.module,
        lambda module: (
            module is not None
            and module["status"].get("moduleLoader", {}).get("desiredNumber") == 2
        ),
    )
    await fleet.condition("Ready", reason="Ready")


async def test_node_made_anew_under_its_name_keeps_its_module_untouched(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await asyncio.to_thread(fleet.api.delete, node.path)
    await asyncio.to_thread(
        fleet.api.create, NODES, {"metadata": {"name": node.name, "labels": dict(node.labels)}}
    )
    await asyncio.to_thread(node.say_status)
    uid = (await fleet.find(node.path) or {})["metadata"]["uid"]
    await fleet.labelled(node)
    await eventually(
        lambda: fleet.state(node),
        lambda state: state and state["metadata"]["ownerReferences"][0]["uid"] == uid,
    )
    await fleet.settled()
    await fleet.loaded()
    assert _modprobes(node) == ["load"]


async def test_new_kernel_gets_the_image_that_its_mapping_names(fleet: Fleet) -> None:
    old, new = fleet.push(tag="6.1", content="for 6.1"), fleet.push(tag="6.2", content="for 6.2")
    node = await fleet.node(kernel="6.1.176")
    await fleet.apply(
        container={
            "containerImage": fleet.image(tag="${KERNEL_X}.${KERNEL_Y}"),
            "kernelMappings": [{"regexp": r"^6\."}],
        }
    )
    await fleet.loaded()
    assert (await fleet.reports(node))["m"]["imageDigest"] == old
    await node.reboot(kernel="6.2.1-generic+")
    await eventually(
        lambda: fleet.reports(node),
        lambda reports: reports.get("m", {}).get("imageDigest") == new,
    )
    await fleet.loaded()
    assert (await fleet.entries(node))["m"]["kernelVersion"] == "6.2.1-generic+"
    assert _modprobes(node) == ["load", "load"]


async def test_kernel_without_a_mapping_has_no_entry_and_the_condition_names_it(
    fleet: Fleet,
) -> None:
    known, unknown = await fleet.node("a"), await fleet.node("b", kernel="5.10.0-old")
    await fleet.apply()
    await fleet.loaded(known)
    ready = await fleet.condition("Ready", reason="Ready")
    assert f"no kernel mapping for: {unknown.name} (5.10.0-old)" in ready["message"]
    assert await fleet.entries(unknown) == {}
    assert unknown.kernel.calls == []


async def test_module_without_any_matching_kernel_is_ready_and_says_so(fleet: Fleet) -> None:
    await fleet.node(kernel="5.10.0-old")
    await fleet.apply()
    ready = await fleet.condition("Ready", reason="NoMatchingKernel")
    assert "5.10.0-old" in ready["message"]


async def test_node_whose_kernel_left_the_mappings_unloads(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    mappings = [{"literal": "6.9.9"}]
    await fleet.edit("m", {"moduleLoader": {"container": {"kernelMappings": mappings}}})
    await fleet.unloaded(node)


async def test_module_leaves_a_node_whose_deletion_a_finalizer_of_others_holds(
    fleet: Fleet,
) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await fleet.edit_node(node, {"metadata": {"finalizers": ["example.test/held"]}})
    await asyncio.to_thread(fleet.api.delete, node.path)
    held = await fleet.find(node.path)
    assert held is not None and "deletionTimestamp" in held["metadata"]
    await fleet.set_parameters("m", "speed=2")
    await eventually(lambda: _parameters(node), lambda found: found == ("speed=2",))
    await fleet.delete()
    await fleet.gone()
    await fleet.unloaded(node)
    await fleet.edit_node(node, {"metadata": {"finalizers": None}})
    await eventually(lambda: fleet.find(node.path), lambda found: found is None, what="node gone")


# Labels set by hand.


async def test_ready_label_removed_by_hand_comes_back(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await fleet.set_label(node, fleet.label(), None)
    await fleet.labelled(node)
    assert _modprobes(node) == ["load"]


async def test_ready_label_set_by_hand_goes(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await fleet.set_label(node, fleet.label("other"), "")
    await fleet.labelled(node, name="other", present=False)
    assert fleet.label() in await fleet.labels(node)


# Taints.


async def test_cordon_and_no_schedule_keep_out_what_is_not_there_only(fleet: Fleet) -> None:
    node, other = await fleet.node("a"), await fleet.node("b")
    await fleet.apply()
    await fleet.loaded()
    taint = {"key": "example.test/full", "effect": "NoSchedule"}
    await fleet.edit_node(node, {"spec": {"unschedulable": True, "taints": [taint]}})
    await fleet.apply("later")
    await fleet.loaded(other, name="later")
    await eventually(
        lambda: fleet.conditions("later"),
        lambda found: f"kept out of: {node.name} (" in found.get("Ready", {}).get("message", ""),
    )
    await fleet.set_parameters("m", "speed=2")
    await eventually(lambda: _parameters(node), lambda found: found == ("speed=2",))
    assert "later" not in await fleet.entries(node)
    assert fleet.label() in await fleet.labels(node)
    await fleet.edit_node(node, {"spec": {"unschedulable": None, "taints": None}})
    await fleet.loaded(node, name="later")


async def _parameters(node: SimNode) -> tuple[str, ...] | None:
    return node.kernel.parameters.get("m")


async def test_no_execute_unloads_where_it_is_not_tolerated(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.apply("tolerant", tolerations=[{"key": "example.test/out", "operator": "Exists"}])
    await fleet.loaded()
    await fleet.loaded(name="tolerant")
    taint = {"key": "example.test/out", "effect": "NoExecute"}
    await fleet.edit_node(node, {"spec": {"taints": [taint]}})
    await fleet.unloaded(node)
    assert fleet.label("tolerant") in await fleet.labels(node)
    await fleet.edit_node(node, {"spec": {"taints": None}})
    await fleet.loaded(node)
    assert node.kernel.unloads(fleet.ref("tolerant")) == 0


async def test_toleration_for_a_time_unloads_when_it_is_over(fleet: Fleet) -> None:
    node = await fleet.node()
    toleration = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2}
    await fleet.apply(tolerations=[toleration])
    await fleet.loaded()
    taint = {"key": "example.test/out", "effect": "NoExecute"}
    await fleet.edit_node(node, {"spec": {"taints": [taint]}})
    await fleet.unloaded(node)


async def test_toleration_of_any_length_stops_no_module_of_the_node(fleet: Fleet) -> None:
    node = await fleet.node()
    taint = {"key": "example.test/out", "effect": "NoExecute"}
    await fleet.edit_node(node, {"spec": {"taints": [taint]}})
    for name, seconds in (("longest", 2**63 - 1), ("long", 10**12), ("negative", -(10**12))):
        toleration = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}
        await fleet.apply(name, tolerations=[toleration])
    await fleet.apply(tolerations=[{"operator": "Exists"}])
    for name in ("m", "long", "longest"):
        await fleet.loaded(name=name)
    assert "negative" not in await fleet.entries(node)


async def test_taints_of_a_node_in_trouble_unload_nothing_and_stop_no_load(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    taint = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
    await fleet.edit_node(node, {"spec": {"taints": [taint]}})
    await fleet.apply("later")
    await fleet.loaded(node, name="later")
    assert node.kernel.unloads(fleet.ref()) == 0


# Modules.


async def test_module_made_anew_with_the_same_content_is_adopted(fleet: Fleet) -> None:
    node = await fleet.node()
    first = await fleet.apply()
    await fleet.loaded()
    await asyncio.to_thread(fleet.control_plane.stop)
    # Nobody is there to see the deletion, which the finalizer would make wait.
    path = f"/apis/kmm.sigs.x-k8s.io/v1beta1/namespaces/{fleet.name}/modules/m"
    await asyncio.to_thread(fleet.api.merge, path, {"metadata": {"finalizers": None}})
    await fleet.delete()
    await fleet.gone()
    second = await fleet.apply()
    await asyncio.to_thread(fleet.control_plane.start)
    uid = second["metadata"]["uid"]
    assert uid != first["metadata"]["uid"]
    await eventually(
        lambda: fleet.reports(node), lambda reports: reports["m"]["uid"] == uid, what="adopted"
    )
    await fleet.loaded()
    assert _modprobes(node) == ["load"]


async def test_changed_image_is_loaded_by_its_digest_on_every_node(fleet: Fleet) -> None:
    nodes = await fleet.three()
    await fleet.apply()
    await fleet.loaded()
    digest = fleet.push(tag="2", content="two")
    await fleet.edit("m", {"moduleLoader": {"container": {"containerImage": fleet.image(tag="2")}}})
    for node in nodes:
        await eventually(
            partial(fleet.reports, node),
            lambda reports: (
                (reports["m"]["state"], reports["m"].get("imageDigest")) == ("Loaded", digest)
            ),
        )
        assert _modprobes(node) == ["load", "unload", "load"]


async def test_same_bytes_under_another_name_reload_nothing(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    fleet.push(tag="alias")
    image = fleet.image(tag="alias")
    await fleet.edit("m", {"moduleLoader": {"container": {"containerImage": image}}})
    await eventually(lambda: fleet.entries(node), lambda entries: entries["m"]["image"] == image)
    await fleet.settled()
    await fleet.loaded()
    assert _modprobes(node) == ["load"]


async def test_tag_that_moved_is_not_followed_by_a_node_that_joins(fleet: Fleet) -> None:
    digest = fleet.push(content="first")
    await fleet.node("a")
    await fleet.apply()
    await fleet.loaded()
    fleet.push(content="second")
    late = await fleet.node("b")
    await fleet.loaded(late)
    assert (await fleet.reports(late))["m"]["imageDigest"] == digest


async def test_module_deleted_while_its_node_is_down_is_unloaded_on_return(fleet: Fleet) -> None:
    """A daemon that is away only, kernel and boot as before: its NodeModulesState waits for it."""
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await node.stop()
    await fleet.delete()
    await eventually(lambda: fleet.entries(node), lambda entries: entries == {})
    assert await fleet.module() is not None
    await node.start()
    await fleet.gone()
    await fleet.unloaded(node)


async def test_deletion_does_not_wait_for_a_node_that_has_booted_since(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await node.go_down()
    await fleet.delete()
    await asyncio.to_thread(node.say_status)
    await fleet.gone()
    await fleet.labelled(node, present=False)
    await node.start()
    await fleet.unloaded(node)
    assert node.kernel.loads(fleet.ref()) == 1


async def test_namespace_is_marked_while_it_has_modules(fleet: Fleet) -> None:
    await fleet.node()
    for name in ("m", "other"):
        await fleet.apply(name)
        await fleet.loaded(name=name)
    await _marked(fleet)
    await fleet.delete("other")
    await fleet.gone("other")
    await fleet.reconciled()
    await _marked(fleet)
    await fleet.delete()
    await fleet.gone()
    await _marked(fleet, expected=False)


async def test_mark_of_a_namespace_that_is_changed_by_hand_is_put_right(fleet: Fleet) -> None:
    await _mark(fleet, "")
    await _marked(fleet, expected=False)
    await fleet.apply()
    await _marked(fleet)
    await _mark(fleet, None)
    await _marked(fleet)


async def _mark(fleet: Fleet, value: str | None) -> None:
    patch = {"metadata": {"labels": {CONTAINS_MODULES_LABEL: value}}}
    await asyncio.to_thread(fleet.api.merge, f"/api/v1/namespaces/{fleet.name}", patch)


async def _marked(fleet: Fleet, *, expected: bool = True) -> None:
    """Wait until the namespace is marked as having Modules, or is not."""
    await eventually(
        lambda: fleet.find(f"/api/v1/namespaces/{fleet.name}"),
        lambda found: (
            found is not None
            and (CONTAINS_MODULES_LABEL in found["metadata"]["labels"]) is expected
        ),
        what=f"namespace {fleet.name} marked: {expected}",
    )


# Conflicts.


async def test_second_module_for_a_kernel_module_stands_back_and_takes_over(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply("winner", modprobe={"moduleName": "shared"})
    await eventually(lambda: _said(fleet, node, "winner"), lambda said: said["state"] == "Loaded")
    await fleet.apply("loser", modprobe={"moduleName": "shared"})
    await eventually(
        lambda: _said(fleet, node, "loser"),
        lambda said: said == {"state": "Failed", "reason": "Conflict"},
    )
    error = (await fleet.reports(node))["loser"]["error"]
    assert str(fleet.ref("winner")) in error["message"]
    assert fleet.label("loser") not in await fleet.labels(node)
    stalled = await fleet.condition("Stalled", name="loser", reason="NodesFailed")
    assert "Conflict" in stalled["message"]
    assert _modprobes(node) == ["load"]
    await fleet.delete("winner")
    await fleet.gone("winner")
    await eventually(lambda: _said(fleet, node, "loser"), lambda said: said["state"] == "Loaded")
    await fleet.labelled(node, name="loser")
    assert node.kernel.unloads(fleet.ref("loser")) == 0
    assert fleet.label("winner") not in await fleet.labels(node)


async def test_module_that_is_given_the_kernel_module_of_another_stands_back(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply("a-edited")
    await fleet.loaded(name="a-edited")
    await fleet.apply("b-loaded")
    await fleet.loaded(name="b-loaded")
    probe = {"moduleName": "b_loaded"}
    await fleet.edit("a-edited", {"moduleLoader": {"container": {"modprobe": probe}}})
    await eventually(
        lambda: _said(fleet, node, "a-edited"),
        lambda said: said == {"state": "Failed", "reason": "Conflict"},
    )
    await fleet.loaded(node, name="b-loaded")
    assert (await fleet.entries(node))["b-loaded"].get("conflictsWith", "") == ""
    assert node.kernel.unloads(fleet.ref("b-loaded")) == 0


# NodeModulesStates, by hand.


@pytest.mark.parametrize("edit", ["emptied", "removed", "altered"])
async def test_state_edited_by_hand_heals_without_a_modprobe(fleet: Fleet, edit: str) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    wanted = await fleet.entries(node)
    await asyncio.to_thread(
        fleet.api.merge, f"{STATES}/{node.name}", {"spec": _edited(edit, wanted)}
    )
    await eventually(lambda: fleet.entries(node), lambda entries: entries == wanted, what="healed")
    await fleet.settled(node)
    await fleet.loaded(node)
    assert _modprobes(node) == ["load"]


def _edited(edit: str, entries: dict[str, Object]) -> Object:
    entry = copy.deepcopy(entries["m"])
    entry["modprobe"]["parameters"] = ["by=hand"]
    entry["configHash"] = "0" * 64
    return {"modules": {"emptied": [], "removed": None, "altered": [entry]}[edit]}


def _is_another(before: Object, state: Object | None) -> bool:
    return state is not None and state["metadata"]["uid"] != before["metadata"]["uid"]


async def test_state_deleted_by_hand_comes_back_without_a_modprobe(fleet: Fleet) -> None:
    nodes = await fleet.three()
    await fleet.apply()
    await fleet.loaded()
    for node in nodes:
        before = await fleet.state(node) or {}
        await asyncio.to_thread(fleet.api.delete, f"{STATES}/{node.name}")
        await eventually(
            partial(fleet.state, node),
            partial(_is_another, before),
        )
        await fleet.settled(node)
        await fleet.loaded(node)
        assert _modprobes(node) == ["load"]


@pytest.mark.parametrize(
    "falsified",
    [
        {"modules": []},
        {"bootId": "another", "observedGeneration": 99},
        {"summary": {"loaded": 7}, "conditions": []},
        {"daemon": {"sequence": 1_000_000, "connected": False}},
        {"daemon": None, "modules": None},
    ],
    ids=lambda falsified: "+".join(falsified),
)
async def test_status_falsified_by_hand_is_put_right_at_once(
    fleet: Fleet, falsified: Object
) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await fleet.settled(node)
    before = _without_times(await fleet.state(node))
    status = f"{STATES}/{node.name}/status"
    await asyncio.to_thread(fleet.api.merge, status, {"status": falsified})
    await eventually(lambda: fleet.state(node), lambda state: _without_times(state) == before)
    await fleet.loaded(node)
    await fleet.set_parameters("m", "a=1")
    await eventually(lambda: _parameters(node), lambda parameters: parameters == ("a=1",))
    await fleet.loaded(node)
    assert node.kernel.loads(fleet.ref()) == 2


def _without_times(state: Object | None) -> Object:
    status: Object = json.loads(json.dumps((state or {})["status"]))
    status.get("daemon", {}).pop("since", None)
    for condition in status.get("conditions") or ():
        condition.pop("lastTransitionTime", None)
    return status


async def test_time_that_is_none_is_refused_by_the_server(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    status = f"{STATES}/{node.name}/status"
    with pytest.raises(ApiError, match="since"):
        await asyncio.to_thread(
            fleet.api.merge, status, {"status": {"daemon": {"since": "yesterday"}}}
        )


async def test_states_conditions_can_be_waited_for(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    kubectl = fleet.control_plane.cluster.kubectl
    name = f"nodemodulesstate/{node.name}"
    await asyncio.to_thread(kubectl, "wait", "--for=condition=Ready", name, "--timeout=30s")
    state = await fleet.state(node) or {}
    (ready,) = [each for each in state["status"]["conditions"] if each["type"] == "Ready"]
    assert ready["observedGeneration"] == state["metadata"]["generation"]


async def test_metadata_that_others_put_on_a_state_survives_a_new_plan(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    metadata = {"labels": {"theirs": "1"}, "annotations": {"theirs": "2"}}
    await asyncio.to_thread(fleet.api.merge, f"{STATES}/{node.name}", {"metadata": metadata})
    await fleet.apply("other")
    await fleet.loaded(node, name="other")
    kept = (await fleet.state(node) or {})["metadata"]
    assert kept["labels"] == {"theirs": "1"}
    assert kept["annotations"].items() >= {"theirs": "2"}.items()
