"""Whatever is away, or comes back: nothing is unloaded, nothing is done twice, nothing is lost."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kmm_common.api import names
from kmm_sandbox import network, samples
from kmm_sandbox.audit import counted
from kmm_sandbox.outcome import Outcome
from support.stage import NODES, STATES, Stage, push_own

CORE = "kmt_core"
NODE_NAMES = ("node1", "node2", "node3")
API_SERVER_AWAY_SECONDS = 20.0
IDLE_SECONDS = 90.0
LOAD_CORE, UNLOAD_CORE = ("load", "default/core"), ("unload", "default/core")


def core(stage: Stage, delay: int = 0) -> Outcome:
    """Apply a Module whose parameter can be read back from the kernel."""
    image = push_own(stage.sandbox, "core", CORE)
    return stage.apply("core", image, CORE, parameters=[f"exit_delay_ms={delay}"])


def wait_delay(stage: Stage, node: str, delay: int) -> None:
    stage.until(
        lambda: stage.parameter(node, CORE, "exit_delay_ms") == str(delay),
        f"exit_delay_ms={delay} on {node}",
    )


@contextmanager
def nothing_done(stage: Stage, *nodes: str) -> Iterator[None]:
    """Require that no daemon of these nodes, or of all, runs modprobe meanwhile."""
    before = {node: stage.steps(node) for node in nodes or stage.sandbox.nodes}
    yield
    assert {node: stage.steps(node) for node in before} == before


@pytest.fixture
def loaded(stage: Stage) -> Iterator[Outcome]:
    outcome = core(stage)
    outcome.wait_loaded()
    outcome.wait_settled()
    yield outcome


# A node.


def test_power_button_unloads_nothing_and_the_label_comes_back(
    stage: Stage, loaded: Outcome
) -> None:
    node, before = stage.sandbox.nodes["node1"], stage.steps("node1")
    boot = node.boot_id()
    node.reboot()
    stage.until(lambda: node.boot_id() not in ("", boot), "new boot")
    stage.until(lambda: loaded.says_loaded_since("node1", node.boot_id()), "loaded again")
    loaded.wait_loaded()
    assert stage.steps("node1") == [*before, LOAD_CORE]


def test_reboot_without_the_registry_loads_from_the_nodes_own_disk(
    stage: Stage, loaded: Outcome
) -> None:
    node = stage.sandbox.nodes["node2"]
    stage.sandbox.registry.stop()
    try:
        boot = node.boot_id()
        node.power_cycle()
        wait_without_registry(stage, loaded, boot)
    finally:
        stage.sandbox.restart_registry()
    loaded.wait_loaded()


def wait_without_registry(stage: Stage, loaded: Outcome, boot: str) -> None:
    """Wait until node2 says that it has loaded; not by means that need the registry alive."""
    node, deadline = stage.sandbox.nodes["node2"], time.monotonic() + 90.0
    while not (node.boot_id() not in ("", boot) and _says(stage, node.boot_id(), loaded)):
        assert time.monotonic() < deadline, "node2 did not load without the registry"
        time.sleep(0.1)


def _says(stage: Stage, boot: str, loaded: Outcome) -> bool:
    return loaded.says_loaded_since("node2", boot)


def test_reboot_without_the_control_plane_loads_when_it_is_back(
    stage: Stage, loaded: Outcome
) -> None:
    """What a node should have is the control plane's to say: the journal is of another boot."""
    node = stage.sandbox.nodes["node3"]
    stage.sandbox.kmm_cp.stop()
    node.power_cycle()
    assert CORE not in node.loaded_modules()
    stage.sandbox.kmm_cp.start()
    stage.until(lambda: loaded.says_loaded_since("node3", node.boot_id()), "loaded again")
    loaded.wait_loaded()


def _deletion_waits_for(stage: Stage) -> list[str]:
    """Return the nodes that a deletion of the Module waits for, as it says itself."""
    told = stage.conditions("core").get("DeletionWaits", {}).get("message", "")
    return [part.partition(":")[0] for part in told.split("; ") if told]


def test_module_that_goes_while_a_node_is_off_does_not_come_back_with_it(stage: Stage) -> None:
    outcome = core(stage)
    outcome.wait_loaded()
    node = stage.sandbox.nodes["node3"]
    node.machine.cut_power()
    stage.delete("core", wait=False)
    # At first it waits for all of them: their unloads take a moment, and then so do their labels.
    stage.until(lambda: _deletion_waits_for(stage) == ["node3"], "the Module waits for node3 alone")
    ready = names.ready_label("default", "core")
    stage.until(lambda: ready not in stage.labels("node1"), "node1 has no label")
    before = stage.steps("node3")
    node.machine.switch_on()
    outcome.wait_gone()
    assert stage.steps("node3") == before


def test_module_that_changes_while_a_cable_is_out_follows_by_one_reload(
    stage: Stage, loaded: Outcome
) -> None:
    address = stage.sandbox.nodes["node1"].machine.spec.address
    before = stage.steps("node1")
    network.unplug(address)
    try:
        core(stage, 1)
        core(stage, 2)
        for other in ("node2", "node3"):
            wait_delay(stage, other, 2)
        assert stage.parameter("node1", CORE, "exit_delay_ms") == "0"
        assert names.ready_label("default", "core") in stage.labels("node1")
    finally:
        network.plug(address)
    wait_delay(stage, "node1", 2)
    loaded.wait_loaded()
    assert stage.steps("node1") == [*before, UNLOAD_CORE, LOAD_CORE]


def test_silent_kubelet_unloads_nothing_and_changes_still_arrive(
    stage: Stage, loaded: Outcome
) -> None:
    """The controller manager takes the node for lost, taints it and says so: KMM does not care."""
    kubelet = stage.sandbox.nodes["node2"].kubelet
    kubelet.silent = True
    try:
        with nothing_done(stage):
            stage.until(lambda: "node.kubernetes.io/unreachable" in taints(stage), "node2 is lost")
            assert names.ready_label("default", "core") in stage.labels("node2")
        core(stage, 3)
        wait_delay(stage, "node2", 3)
    finally:
        kubelet.silent = False
    stage.until(lambda: taints(stage) == set(), "node2 is back")
    loaded.wait_loaded()


def taints(stage: Stage) -> set[str]:
    spec = stage.sandbox.api.get(f"{NODES}/node2")["spec"]
    return {taint["key"] for taint in spec.get("taints") or ()}


def test_node_that_is_deleted_and_comes_back_reloads_nothing(stage: Stage, loaded: Outcome) -> None:
    node = stage.sandbox.nodes["node1"]
    with nothing_done(stage):
        stage.sandbox.kubectl("delete", "node", "node1")
        node.join_again()
        loaded.wait_loaded()


# The control plane.


def test_restart_with_everything_loaded_reloads_nothing(stage: Stage, loaded: Outcome) -> None:
    stage.sandbox.kmm_cp.replicas.wait_idle(seconds=IDLE_SECONDS)
    audit = stage.sandbox.plane.layout.audit_log
    before = audit.stat().st_size
    with nothing_done(stage):
        assert stage.sandbox.kmm_cp.stop() == 0
        stage.sandbox.kmm_cp.start()
        stage.until(lambda: served(stage) == set(stage.sandbox.nodes), "all nodes are served")
        loaded.wait_loaded()
        stage.sandbox.kmm_cp.replicas.wait_idle(seconds=IDLE_SECONDS)
    lines = audit.read_bytes()[before:].decode().splitlines()
    assert lines
    wrote = counted(lines, nodes=len(stage.sandbox.nodes), modules=1)
    assert (wrote.by_kind, wrote.in_vain) == ({}, {})


def served(stage: Stage) -> set[str]:
    path = "/api/v1/namespaces/kmm-operator-system/configmaps"
    maps = [each for each in stage.sandbox.api.items(path) if "nodes" in (each.get("data") or {})]
    return {node for each in maps for node in each["data"]["nodes"].split()}


def test_control_plane_killed_in_a_rollout_loads_everything_once(stage: Stage) -> None:
    before = {node: len(stage.steps(node)) for node in NODE_NAMES}
    slip = stage.apply("slip", samples.push(stage.sandbox, "slip", ("slip",)), "slip")
    first = core(stage)
    stage.until(
        lambda: any(LOAD_CORE in stage.steps(node)[before[node] :] for node in NODE_NAMES),
        "it began",
    )
    stage.sandbox.kmm_cp.kill()
    stage.sandbox.kmm_cp.start()
    slip.wait_loaded()
    first.wait_loaded()
    for node in NODE_NAMES:
        done = stage.steps(node)[before[node] :]
        assert sorted(done) == [LOAD_CORE, ("load", "default/slip")]


def test_change_without_a_control_plane_arrives_when_it_is_back(
    stage: Stage, loaded: Outcome
) -> None:
    before = {node: stage.steps(node) for node in NODE_NAMES}
    stage.sandbox.kmm_cp.kill()
    for delay in (4, 5, 6):
        core(stage, delay)
    stage.sandbox.kmm_cp.start()
    for node in NODE_NAMES:
        wait_delay(stage, node, 6)
    loaded.wait_loaded()
    for node, steps in before.items():
        assert stage.steps(node) == [*steps, UNLOAD_CORE, LOAD_CORE]


# The API server.


def test_api_server_that_hangs_delays_and_repeats_nothing(stage: Stage, loaded: Outcome) -> None:
    server = stage.sandbox.plane.process("kube-apiserver")
    core(stage, 7)
    server.signal(signal.SIGSTOP)
    try:
        time.sleep(API_SERVER_AWAY_SECONDS)
    finally:
        server.signal(signal.SIGCONT)
    for node in NODE_NAMES:
        wait_delay(stage, node, 7)
    loaded.wait_loaded()


def test_api_server_that_dies_is_found_again(stage: Stage, loaded: Outcome) -> None:
    with nothing_done(stage):
        stage.sandbox.plane.restart_apiserver()
        loaded.wait_loaded()
    core(stage, 8)
    for node in NODE_NAMES:
        wait_delay(stage, node, 8)
    loaded.wait_loaded()


# What people do by hand.


def test_labels_changed_by_hand_are_restored_from_the_truth(stage: Stage, loaded: Outcome) -> None:
    key, false = names.ready_label("default", "core"), names.ready_label("default", "nothing")
    with nothing_done(stage):
        stage.sandbox.kubectl("label", "node", "node1", f"{key}-", f"{false}=")
        stage.until(
            lambda: key in stage.labels("node1") and false not in stage.labels("node1"),
            "labels of node1 are true",
        )


def test_state_edited_or_deleted_by_hand_heals_without_a_modprobe(
    stage: Stage, loaded: Outcome
) -> None:
    path = f"{STATES}/node1"
    with nothing_done(stage):
        patch = '{"spec": {"modules": []}}'
        stage.sandbox.kubectl("patch", "nms", "node1", "--type=merge", "-p", patch)
        stage.until(lambda: bool(stage.sandbox.api.get(path)["spec"].get("modules")), "healed")
        uid = stage.sandbox.api.get(path)["metadata"]["uid"]
        stage.sandbox.kubectl("delete", "nms", "node1")
        stage.until(
            lambda: (stage.sandbox.api.find(path) or {}).get("metadata", {}).get("uid", uid) != uid,
            "a new one",
        )
        loaded.wait_loaded()
