"""What kstatus reads from a Module and a NodeModulesState, and with it Flux and Argo CD."""

import asyncio
import json
from collections import deque
from collections.abc import Sequence

import pytest

from kmm_common.api.names import PAUSED_ANNOTATION, TOLERATED_FAILURES_ANNOTATION, Reason
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.progress import Progress
from support.argohealth import ARGO_HEALTH, healths
from support.fleet import KMM, STATES, Fleet, eventually
from support.kstatus import KSTATUS, Verdict, verdicts
from support.simkernel import failure
from support.simnode import SimNode

IN_PROGRESS, FAILED, CURRENT, TERMINATING = "InProgress", "Failed", "Current", "Terminating"
HEALTH = {
    IN_PROGRESS: "Progressing",
    TERMINATING: "Progressing",
    FAILED: "Degraded",
    CURRENT: "Healthy",
}
PAUSED = {"annotations": {PAUSED_ANNOTATION: "true"}}
SYMBOL = failure(Reason.UNKNOWN_SYMBOL, "Unknown symbol foo", retry=False)


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    KSTATUS.find(Progress())
    ARGO_HEALTH.find(Progress())


def _verdicts(objects: Sequence[Object]) -> list[Verdict]:
    """Return what kstatus says of each, after a look at whether the script for Argo CD agrees."""
    found = verdicts(objects)
    for verdict, health in zip(found, healths(objects), strict=True):
        assert health.status == HEALTH[verdict.status]
        assert verdict.status != FAILED or health.message == verdict.message
    return found


async def _judged(found: Object | None) -> Verdict:
    assert found is not None
    (verdict,) = await asyncio.to_thread(_verdicts, [found])
    return verdict


async def _module(fleet: Fleet, status: str, *, told: str = "") -> Verdict:
    """Wait until kstatus says so of Module m, with these words in its message."""

    async def look() -> Verdict:
        return await _judged(await fleet.module())

    return await eventually(look, lambda seen: seen.status == status and told in seen.message)


async def _state(fleet: Fleet, node: SimNode, status: str, *, told: str = "") -> Verdict:
    """Wait until kstatus says so of a node's NodeModulesState."""
    await eventually(lambda: fleet.state(node))

    async def look() -> Verdict:
        return await _judged(await fleet.state(node))

    return await eventually(look, lambda seen: seen.status == status and told in seen.message)


async def _versions(fleet: Fleet, collection: str, name: str, since: str) -> list[str]:
    """Return what kstatus says of each version of an object after one, up to that of now."""
    query = f"watch=1&timeoutSeconds=1&resourceVersion={since}&fieldSelector=metadata.name={name}"

    async def look() -> list[Object]:
        kubectl = fleet.control_plane.cluster.kubectl
        text = await asyncio.to_thread(kubectl, "get", "--raw", f"{collection}?{query}")
        return [json.loads(line)["object"] for line in text.splitlines()]

    newest = await fleet.find(f"{collection}/{name}") or {}
    version = newest["metadata"]["resourceVersion"]
    seen = await eventually(
        look, lambda found: version in {each["metadata"]["resourceVersion"] for each in found}
    )
    return [verdict.status for verdict in await asyncio.to_thread(_verdicts, seen)]


def _modules(fleet: Fleet) -> str:
    return f"{KMM}/namespaces/{fleet.name}/modules"


async def test_module_just_applied_is_in_progress_at_every_version_until_it_is_loaded(
    fleet: Fleet,
) -> None:
    node = await fleet.node()
    gate = node.kernel.gates[fleet.ref()] = asyncio.Event()
    applied = await fleet.apply()
    since = applied["metadata"]["resourceVersion"]
    assert (await _judged(applied)).status == IN_PROGRESS
    await _module(fleet, IN_PROGRESS, told=f"loaded on 0 of 1 nodes; waiting for: {node.name}")
    await _state(fleet, node, IN_PROGRESS, told="generation is")
    for collection, name in ((_modules(fleet), "m"), (STATES, node.name)):
        assert set(await _versions(fleet, collection, name, since)) == {IN_PROGRESS}
    gate.set()
    assert (await _module(fleet, CURRENT)).message == "Resource is Ready"
    await _state(fleet, node, CURRENT)
    assert node.kernel.loads(fleet.ref()) == 1


async def test_changed_module_is_in_progress_at_every_version_until_the_change_is_loaded(
    fleet: Fleet,
) -> None:
    node = await fleet.node()
    await fleet.apply()
    await _module(fleet, CURRENT)
    before = await fleet.module() or {}
    gate = node.kernel.gates[fleet.ref()] = asyncio.Event()
    await fleet.set_parameters("m", "speed=2")
    await eventually(lambda: asyncio.sleep(0, node.kernel.loads(fleet.ref())), lambda n: n == 2)
    await _module(fleet, IN_PROGRESS, told="waiting for")
    since = before["metadata"]["resourceVersion"]
    assert set(await _versions(fleet, _modules(fleet), "m", since)) == {IN_PROGRESS}
    await _state(fleet, node, IN_PROGRESS)
    gate.set()
    await _module(fleet, CURRENT)
    await _state(fleet, node, CURRENT)
    assert node.kernel.parameters["m"] == ("speed=2",)


async def test_module_that_fails_for_good_is_failed_with_our_message_and_current_once_fixed(
    fleet: Fleet,
) -> None:
    bad = await fleet.node("a")
    bad.kernel.failing[fleet.ref()] = deque([SYMBOL])
    await fleet.apply()
    failed = await _module(fleet, FAILED)
    assert failed.message == (
        f"loaded on 0 of 1 nodes; 1 failed: {bad.name} (UnknownSymbol: Unknown symbol foo)"
    )
    told = await _state(fleet, bad, FAILED)
    assert told.message == f"0 of 1 Modules loaded; {fleet.name}/m: UnknownSymbol"
    await fleet.set_parameters("m", "fixed=1")
    await _module(fleet, CURRENT)
    await _state(fleet, bad, CURRENT)


async def test_module_is_failed_beyond_its_tolerated_failures_and_current_within_them(
    fleet: Fleet,
) -> None:
    """A node keeps saying that it failed, whatever its Module tolerates."""
    nodes = [await fleet.node(name) for name in "ab"]
    for node in nodes:
        node.kernel.failing[fleet.ref()] = deque([SYMBOL])
    await fleet.apply(metadata={"annotations": {TOLERATED_FAILURES_ANNOTATION: "1"}})
    await _module(fleet, FAILED, told="2 failed")
    await fleet.annotate(TOLERATED_FAILURES_ANNOTATION, "2")
    await _module(fleet, CURRENT)
    for node in nodes:
        await _state(fleet, node, FAILED)


async def test_failure_with_a_retry_to_come_is_in_progress_with_our_message(fleet: Fleet) -> None:
    node = await fleet.node(patient=True)
    node.kernel.failing[fleet.ref()] = deque([failure(Reason.TIMED_OUT, "took too long")])
    await fleet.apply()
    await _module(fleet, IN_PROGRESS, told="TimedOut: took too long")
    await _state(fleet, node, IN_PROGRESS)


async def test_module_that_cannot_be_carried_out_is_failed_without_any_node_trying(
    fleet: Fleet,
) -> None:
    node = await fleet.node()
    await fleet.apply(container={"containerImage": "kmod:not a tag"})
    await _module(fleet, FAILED, told="spec.moduleLoader.container.containerImage")
    assert node.kernel.calls == []


async def test_pause_before_the_load_is_in_progress_and_after_it_current(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply(metadata=PAUSED)
    await _module(fleet, IN_PROGRESS, told="held back by the pause of the Module")
    await fleet.annotate(PAUSED_ANNOTATION, None)
    await _module(fleet, CURRENT)
    await fleet.annotate(PAUSED_ANNOTATION, "true")
    await fleet.condition("Paused", reason="Paused")
    await _module(fleet, CURRENT)
    await fleet.annotate_node(node, PAUSED_ANNOTATION, "true")
    await eventually(lambda: fleet.state_condition(node, "Paused"))
    await _state(fleet, node, CURRENT)


async def test_module_being_deleted_is_terminating_until_it_is_out_everywhere(
    fleet: Fleet,
) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    node.kernel.busy.add("m")
    await fleet.delete()
    await fleet.condition("DeletionWaits", reason="WaitingForUnload")
    await _module(fleet, TERMINATING)
    await _state(fleet, node, IN_PROGRESS)
    node.kernel.busy.clear()
    await fleet.gone()
    await _state(fleet, node, CURRENT)


async def test_module_for_no_node_is_current(fleet: Fleet) -> None:
    await fleet.node()
    await fleet.apply(selector={"no": "such-node"})
    await _module(fleet, CURRENT)


@pytest.mark.parametrize("daemon", [True, False], ids=["heard", "silent"])
async def test_state_of_a_node_is_current_only_once_its_daemon_has_spoken(
    fleet: Fleet, *, daemon: bool
) -> None:
    node = await fleet.node(daemon=daemon)
    await fleet.apply()
    await _state(fleet, node, CURRENT if daemon else IN_PROGRESS)
    await _module(fleet, CURRENT if daemon else IN_PROGRESS)
