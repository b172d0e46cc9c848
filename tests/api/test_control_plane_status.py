"""What a Module's status tells its user."""

import asyncio
from collections import deque

import pytest

from kmm_common.api.names import TOLERATED_FAILURES_ANNOTATION, Reason
from kmm_sandbox.kubeapi import Object
from support.fleet import Fleet, eventually
from support.simkernel import failure
from support.simnode import SimNode


def _fails_for_good(fleet: Fleet, node: SimNode, name: str = "m") -> None:
    """Let the next load fail so that only another config can help."""
    error = failure(Reason.UNKNOWN_SYMBOL, "Unknown symbol foo", retry=False)
    node.kernel.failing[fleet.ref(name)] = deque([error])


def _statuses(conditions: dict[str, Object]) -> dict[str, str]:
    return {type_: each["status"] for type_, each in conditions.items()}


async def test_module_is_reconciling_until_every_node_has_it_and_ready_then(fleet: Fleet) -> None:
    node = await fleet.node()
    gate = node.kernel.gates[fleet.ref()] = asyncio.Event()
    await fleet.apply()
    reconciling = await fleet.condition("Reconciling", reason="Progressing")
    assert node.name in reconciling["message"]
    assert _statuses(await fleet.conditions()) == {
        "Ready": "False",
        "Reconciling": "True",
        "Stalled": "False",
    }
    gate.set()
    ready = await fleet.condition("Ready", reason="Ready")
    assert ready["message"] == "loaded on 1 of 1 nodes"
    assert ready["lastTransitionTime"] >= reconciling["lastTransitionTime"]
    assert _statuses(await fleet.conditions()) == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
    }
    module = await fleet.module() or {}
    assert module["status"]["observedGeneration"] == module["metadata"]["generation"]


async def test_failure_for_good_stalls_and_another_config_ends_that(fleet: Fleet) -> None:
    bad, good = await fleet.node("a"), await fleet.node("b")
    _fails_for_good(fleet, bad)
    await fleet.apply()
    stalled = await fleet.condition("Stalled", reason="NodesFailed")
    assert f"{bad.name} (UnknownSymbol: Unknown symbol foo)" in stalled["message"]
    assert "loaded on 1 of 2 nodes" in stalled["message"]
    await fleet.loaded(good)
    assert fleet.label() not in await fleet.labels(bad)
    error = (await fleet.reports(bad))["m"]["error"]
    assert (error["reason"], error["exitCode"]) == ("UnknownSymbol", 1)
    await fleet.set_parameters("m", "other=1")
    await fleet.condition("Ready", reason="Ready")
    assert (await fleet.conditions())["Stalled"]["status"] == "False"


async def test_failure_on_nodes_is_one_event_on_the_module_and_no_second_after_a_restart(
    fleet: Fleet,
) -> None:
    for node in await fleet.three():
        _fails_for_good(fleet, node)
    await fleet.apply()
    await fleet.condition("Stalled", reason="NodesFailed")
    told = await eventually(lambda: fleet.events(fleet.name, "m"))
    ((reason, message),) = told
    assert reason == "ModuleFailed"
    assert message.startswith("UnknownSymbol on ")
    assert "Unknown symbol foo" in message
    await eventually(lambda: _failures(fleet), lambda rows: [row["nodes"] for row in rows] == [3])
    described = await asyncio.to_thread(
        fleet.control_plane.cluster.kubectl, "describe", "module", "m", "-n", fleet.name
    )
    events = described.partition("Events:")[2]
    assert "Warning" in events
    assert message in events
    await asyncio.to_thread(fleet.control_plane.restart)
    await fleet.reconciled()
    assert await fleet.events(fleet.name, "m") == {(reason, message): 1}


async def _failures(fleet: Fleet) -> list[Object]:
    return (await fleet.module() or {}).get("status", {}).get("failures") or []


async def test_failure_that_may_pass_is_retried_and_never_stalls(fleet: Fleet) -> None:
    node = await fleet.node()
    error = failure(Reason.TIMED_OUT, "took too long")
    node.kernel.failing[fleet.ref()] = deque([error] * 6)
    await fleet.apply()
    reconciling = await fleet.condition("Reconciling")
    await eventually(
        fleet.conditions,
        lambda conditions: "TimedOut: took too long" in conditions["Reconciling"]["message"],
    )
    assert reconciling["reason"] == "Progressing"
    assert (await fleet.conditions())["Stalled"]["status"] == "False"
    await fleet.condition("Ready", reason="Ready")
    assert node.kernel.loads(fleet.ref()) == 7


async def test_failure_for_good_is_told_while_another_module_of_the_node_is_still_tried(
    fleet: Fleet,
) -> None:
    node = await fleet.node()
    gate = node.kernel.gates[fleet.ref("other")] = asyncio.Event()
    await fleet.apply("other")
    _fails_for_good(fleet, node)
    await fleet.apply()
    stalled = await fleet.condition("Stalled", reason="NodesFailed")
    assert "UnknownSymbol" in stalled["message"]
    state = await fleet.state(node) or {}
    assert state["status"]["observedGeneration"] < state["metadata"]["generation"]
    gate.set()
    await fleet.loaded(node, name="other")


@pytest.mark.parametrize("tolerated", ["1", "50%"])
async def test_tolerated_failures_leave_the_module_ready_and_are_counted(
    fleet: Fleet, tolerated: str
) -> None:
    bad, _ = await fleet.node("a"), await fleet.node("b")
    _fails_for_good(fleet, bad)
    await fleet.apply(metadata={"annotations": {TOLERATED_FAILURES_ANNOTATION: tolerated}})
    ready = await fleet.condition("Ready", reason="ToleratedFailures")
    assert "1 failed" in ready["message"]
    assert bad.name in ready["message"]
    assert (await fleet.conditions())["Stalled"]["status"] == "False"


async def test_tolerance_that_is_no_number_is_told_and_not_taken(fleet: Fleet) -> None:
    await fleet.node()
    await fleet.apply(metadata={"annotations": {TOLERATED_FAILURES_ANNOTATION: "many"}})
    ready = await fleet.condition("Ready", reason="Ready")
    assert f"annotation {TOLERATED_FAILURES_ANNOTATION} is 'many'" in ready["message"]


async def test_node_that_is_not_ready_is_named_and_not_waited_for(fleet: Fleet) -> None:
    await fleet.node("a")
    away = await fleet.node("b", daemon=False)
    await asyncio.to_thread(away.say_status, ready=False)
    await fleet.apply()
    ready = await fleet.condition("Ready", reason="NodesNotReady")
    assert f"not ready: {away.name}" in ready["message"]


async def test_module_for_no_node_is_ready_and_says_so(fleet: Fleet) -> None:
    await fleet.node()
    await fleet.apply(selector={"no": "such-node"})
    await fleet.condition("Ready", reason="NoMatchingNodes")


async def test_images_are_told_by_kernel_with_digest_and_state(fleet: Fleet) -> None:
    digest = fleet.push(tag="6.1.176")
    await fleet.node("a", kernel="6.1.176")
    await fleet.node("b", kernel="6.2.1")
    await fleet.apply(
        container={
            "containerImage": fleet.image(tag="${KERNEL_FULL_VERSION}"),
            "kernelMappings": [{"regexp": r"^6\."}],
        }
    )
    rows = await eventually(
        lambda: _images(fleet), lambda rows: [row["state"] for row in rows] == ["Exists", "Missing"]
    )
    assert rows[0] == {
        "kernel": "6.1.176",
        "image": fleet.image(tag="6.1.176"),
        "digest": digest,
        "state": "Exists",
    }
    assert fleet.image(tag="6.2.1") in rows[1]["message"]


async def _images(fleet: Fleet) -> list[Object]:
    return (await fleet.module() or {}).get("status", {}).get("images") or []


async def test_fields_that_are_not_acted_on_yet_are_named_and_the_module_loads(
    fleet: Fleet,
) -> None:
    await fleet.node()
    container = {
        "build": {"dockerfileConfigMap": {"name": "dockerfile"}},
        "sign": {
            "keySecret": {"name": "k"},
            "certSecret": {"name": "c"},
            "filesToSign": ["/opt/m.ko"],
        },
    }
    plugin = {"container": {"image": "example.test/plugin:1"}}
    await fleet.apply(container=container, devicePlugin=plugin)
    await fleet.loaded()
    condition = await fleet.condition("NotActedOn", reason="FeatureNotAvailable")
    path = "spec.moduleLoader.container"
    for field in (f"{path}.build", f"{path}.sign", "spec.devicePlugin"):
        assert field in condition["message"]
    await fleet.condition("Ready", reason="Ready")


async def test_conditions_of_other_writers_stay(fleet: Fleet) -> None:
    await fleet.node()
    await fleet.apply()
    await fleet.condition("Ready", reason="Ready")
    conditions = list((await fleet.conditions()).values())
    theirs = {**conditions[0], "type": "example.test/Audited", "reason": "Theirs"}
    path = f"/apis/kmm.sigs.x-k8s.io/v1beta1/namespaces/{fleet.name}/modules/m/status"
    patch = {"status": {"conditions": [*conditions, theirs]}}
    await asyncio.to_thread(fleet.api.merge, path, patch)
    await fleet.node("b")
    await eventually(
        fleet.conditions, lambda found: "loaded on 2 of 2" in found["Ready"]["message"]
    )
    assert (await fleet.conditions())["example.test/Audited"] == theirs


async def test_status_of_a_module_just_applied_never_looks_healthy(fleet: Fleet) -> None:
    applied = await fleet.apply()
    assert applied["status"] == {"observedGeneration": -1}


async def test_module_without_a_loader_is_ready_and_loads_nothing(fleet: Fleet) -> None:
    node = await fleet.node()
    manifest = fleet.manifest(devicePlugin={"container": {"image": "example.test/plugin:1"}})
    del manifest["spec"]["moduleLoader"]
    await fleet.create(manifest)
    await fleet.condition("Ready", reason="NoModuleLoader")
    assert await fleet.entries(node) == {}


async def test_module_that_somebody_took_out_is_told_and_loaded_again(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    node.kernel.rmmod("m")
    await eventually(
        lambda: asyncio.sleep(0, node.kernel.loads(fleet.ref())), lambda loads: loads == 2
    )
    await fleet.loaded()
