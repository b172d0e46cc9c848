"""A node cut off, suspended or in another time: nothing is unloaded, and it finds its way back."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import pytest

from kmm_common.api import names
from kmm_sandbox import network, samples
from kmm_sandbox.outcome import Outcome
from kmm_sandbox.process.node import Node
from support.stage import Stage, push_own

CORE = "kmt_core"
LABEL = names.ready_label("default", "core")
LOAD, UNLOAD = ("load", "default/core"), ("unload", "default/core")
RELOAD = [UNLOAD, LOAD]
NODE_NAMES = ("node1", "node2", "node3")
AWAY_CHANGES = 30


def core(stage: Stage, delay: int) -> Outcome:
    """Apply a Module whose parameter can be read back from the kernel."""
    image = push_own(stage.sandbox, "core", CORE)
    return stage.apply("core", image, CORE, parameters=[f"exit_delay_ms={delay}"])


def wait_delay(stage: Stage, node: str, delay: int) -> None:
    stage.until(
        lambda: stage.parameter(node, CORE, "exit_delay_ms") == str(delay),
        f"exit_delay_ms={delay} on {node}",
    )


@pytest.fixture
def loaded(stage: Stage) -> Iterator[Outcome]:
    outcome = core(stage, 0)
    outcome.wait_loaded()
    outcome.wait_settled()
    yield outcome


@pytest.fixture
def steps_before(stage: Stage, loaded: Outcome) -> dict[str, list[tuple[str, str]]]:
    """Every modprobe until now, by node."""
    return {node: stage.steps(node) for node in NODE_NAMES}


@contextmanager
def muted(node: Node) -> Iterator[None]:
    node.mute()
    try:
        yield
    finally:
        node.unmute()


@contextmanager
def deafened(node: Node) -> Iterator[None]:
    network.deafen(node.machine.spec.address)
    try:
        yield
    finally:
        network.undeafen(node.machine.spec.address)


@contextmanager
def unplugged(node: Node) -> Iterator[None]:
    network.unplug(node.machine.spec.address)
    try:
        yield
    finally:
        network.plug(node.machine.spec.address)


def wait_one_session(stage: Stage, node: str) -> None:
    """Wait until a node has one session with the control plane, whatever came and went."""

    def one() -> bool:
        opened, closed = stage.sessions(node)
        return opened - closed == 1

    stage.until(one, f"one session of {node}")


def wait_closed(stage: Stage, node: str, before: int) -> None:
    """Wait until the control plane has given a node's session up."""
    stage.until(lambda: stage.sessions(node)[1] > before, f"session of {node} given up")


def test_network_cut_one_way_or_both_ends_in_one_session_and_the_newest_state(
    stage: Stage, loaded: Outcome, steps_before: dict[str, list[tuple[str, str]]]
) -> None:
    """One node is heard no more, one hears no more, one neither."""
    nodes = stage.sandbox.nodes
    closed = {node: stage.sessions(node)[1] for node in NODE_NAMES}
    said = {node: len(stage.no_session(node)) for node in NODE_NAMES}
    with ExitStack() as cuts:
        # The muted one last: in ten seconds its session may be given up.
        for name, cut in zip(reversed(NODE_NAMES), (unplugged, deafened, muted), strict=True):
            cuts.enter_context(cut(nodes[name]))
        core(stage, 1)
        # What only hears is told nevertheless, and acts on it.
        wait_delay(stage, "node1", 1)
        for node in NODE_NAMES:
            wait_closed(stage, node, closed[node])
            stage.until(
                lambda node=node: len(stage.no_session(node)) > said[node],  # type: ignore[misc]
                f"{node} knows that it has no session",
            )
        core(stage, 2)
        assert all(LABEL in stage.labels(node) for node in NODE_NAMES)
        assert stage.parameter("node2", CORE, "exit_delay_ms") == "0"
        assert stage.parameter("node3", CORE, "exit_delay_ms") == "0"
    for node in NODE_NAMES:
        wait_delay(stage, node, 2)
        wait_one_session(stage, node)
    loaded.wait_loaded()
    done = {node: stage.steps(node)[len(steps_before[node]) :] for node in NODE_NAMES}
    assert done == {"node1": RELOAD * 2, "node2": RELOAD, "node3": RELOAD}


def test_suspended_node_follows_by_one_reload_when_it_goes_on(
    stage: Stage, loaded: Outcome, steps_before: dict[str, list[tuple[str, str]]]
) -> None:
    """For longer than the control plane waits for a sign of life.

    The change comes after that: what was sent before still waits for the node at its network.
    """
    machine = stage.sandbox.nodes["node2"].machine
    closed = stage.sessions("node2")[1]
    machine.suspend()
    try:
        wait_closed(stage, "node2", closed)
        core(stage, 4)
        for other in ("node1", "node3"):
            wait_delay(stage, other, 4)
        assert LABEL in stage.labels("node2")
    finally:
        machine.resume()
    wait_delay(stage, "node2", 4)
    wait_one_session(stage, "node2")
    loaded.wait_loaded()
    assert stage.steps("node2") == [*steps_before["node2"], *RELOAD]


OFF = {
    "node1": timedelta(days=31),
    "node2": timedelta(days=-1),
    "node3": timedelta(minutes=5),
}
"""The sandbox's certificates are valid from five minutes before they were made, for 30 days."""


@contextmanager
def clocks_off(stage: Stage) -> Iterator[None]:
    """Step the nodes' clocks; step them back at the end."""
    for name, off in OFF.items():
        stage.sandbox.nodes[name].step_clock(off.total_seconds())
    try:
        yield
    finally:
        for name, off in OFF.items():
            stage.sandbox.nodes[name].step_clock(-off.total_seconds())


def test_clock_that_is_stepped_disturbs_no_session_and_no_module(
    stage: Stage, loaded: Outcome, steps_before: dict[str, list[tuple[str, str]]]
) -> None:
    """A new session needs certificates that are valid by the node's clock: that is told."""
    sessions = {node: stage.sessions(node) for node in NODE_NAMES}
    with clocks_off(stage):
        core(stage, 5)
        for node in NODE_NAMES:
            wait_delay(stage, node, 5)
        loaded.wait_loaded()
        assert {node: stage.sessions(node) for node in NODE_NAMES} == sessions
        stage.sandbox.kmm_cp.stop()
        stage.sandbox.kmm_cp.start()
        for node, words in (
            ("node1", "has expired by this node's clock: renew its tls.cert, or set the clock"),
            ("node2", "is not valid yet by this node's clock: set the clock"),
        ):
            stage.until(
                lambda node=node, words=words: words in str(stage.no_session(node)[-1:]),  # type: ignore[misc]
                f"{node} says why it has no session",
            )
        core(stage, 6)
        wait_delay(stage, "node3", 6)
        for node in ("node1", "node2"):
            assert stage.parameter(node, CORE, "exit_delay_ms") == "5"
            assert LABEL in stage.labels(node)
    for node in NODE_NAMES:
        wait_delay(stage, node, 6)
        wait_one_session(stage, node)
    loaded.wait_loaded()
    done = {node: stage.steps(node)[len(steps_before[node]) :] for node in NODE_NAMES}
    assert done == dict.fromkeys(NODE_NAMES, RELOAD * 2)


def test_clock_that_is_put_back_five_minutes_disturbs_nothing(
    stage: Stage, loaded: Outcome, steps_before: dict[str, list[tuple[str, str]]]
) -> None:
    node, sessions = stage.sandbox.nodes["node3"], stage.sessions("node3")
    node.step_clock(-300)
    try:
        core(stage, 7)
        wait_delay(stage, "node3", 7)
        loaded.wait_loaded()
    finally:
        node.step_clock(300)
    assert stage.sessions("node3") == sessions
    assert stage.steps("node3") == [*steps_before["node3"], *RELOAD]


def test_many_changes_without_a_control_plane_cost_one_reload_and_few_words(
    stage: Stage, loaded: Outcome, steps_before: dict[str, list[tuple[str, str]]]
) -> None:
    """An hour of this on a virtual clock: tests/unit/kmm_daemon/link/test_client.py."""
    stage.sandbox.kmm_cp.kill()
    said = {node: len(stage.no_session(node)) for node in NODE_NAMES}
    slip = samples.push(stage.sandbox, "slip", ("slip",))
    for number in range(AWAY_CHANGES):
        core(stage, 100 + number)
        if number % 2:
            stage.delete("slip", wait=False)
        else:
            stage.apply("slip", slip, "slip")
    words = {node: stage.no_session(node)[said[node] :] for node in NODE_NAMES}
    assert all(len(set(told)) == len(told) for told in words.values()), words
    last = stage.apply("slip", slip, "slip")
    stage.sandbox.kmm_cp.start()
    for node in NODE_NAMES:
        wait_delay(stage, node, 100 + AWAY_CHANGES - 1)
        wait_one_session(stage, node)
    loaded.wait_loaded()
    last.wait_loaded()
    for node in NODE_NAMES:
        done = stage.steps(node)[len(steps_before[node]) :]
        assert sorted(done) == sorted([*RELOAD, ("load", "default/slip")])
