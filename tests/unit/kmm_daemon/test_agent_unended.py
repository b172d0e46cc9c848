"""A modprobe or rmmod that nothing can end: known, told, never joined by a second one."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModprobeArgs, ModuleState, ReportedModule
from support.node import Node, desired, ref
from support.simkernel import PID, Interrupted, SimFile

A, B, OTHER, ALONE = "sha256:aaaaaaaa", "sha256:bbbbbbbb", "sha256:other", "sha256:alone"
FILES = {"m": SimFile("v-m", ("dep",)), "dep": SimFile("v-dep")}
LONG = 12.0
"""Longer than the first wait for a retry."""
TOLD = f"process {PID} (modprobe m) has not ended"
RAW = {"module_name": "", "raw_args": ModprobeArgs(load=("-d", "/opt", "m"))}

OTHERS = {
    "needs the dependency": desired("other", digest=OTHER),
    "names it in its loading order": desired(
        "other", digest=OTHER, modules_loading_order=("other", "dep")
    ),
    "wants it out": desired("other", digest=OTHER, in_tree_modules_to_remove=("dep",)),
    "names the module in rawArgs": desired("other", digest=OTHER, **RAW),
}
"""Modules that touch what the process of Module m works on."""


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node whose images bring `dep` with `m` and with `other`; `alone` stands alone."""
    node = Node()
    node.kernel.images.files |= {A: FILES, B: {**FILES, "m": SimFile("v-m2", ("dep",))}}
    node.kernel.images.files[OTHER] = {
        "other": SimFile("v-o", ("dep",)),
        "dep": SimFile("v-dep"),
        "": SimFile("v-raw"),
    }
    await node.start()
    yield node
    await node.stop()


def of(node: Node, name: str = "m") -> ReportedModule:
    said = node.said(name)
    assert said is not None
    return said


def error_of(node: Node, name: str = "m") -> tuple[str, str]:
    """Return reason and message of a Module's error."""
    error = of(node, name).error
    assert error is not None
    return error.reason, error.message


async def stuck_load(node: Node, hangs: str, *others: DesiredModule) -> None:
    node.kernel.stuck[ref()] = hangs
    await node.want(desired(), *others)


HANGS = pytest.mark.parametrize("hangs", ["m", "dep", ""], ids=["init", "dependency", "unseen"])
"""In whose init the process waits; or where nothing shows in /proc/modules."""


@HANGS
async def test_stuck_load_is_told_and_not_tried_again(node: Node, hangs: str) -> None:
    await stuck_load(node, hangs)
    await node.clock.advance(LONG)
    assert (of(node).state, of(node).in_kernel) == (ModuleState.FAILED, False)
    reason, message = error_of(node)
    assert reason == Reason.STILL_RUNNING
    assert TOLD in message
    assert (node.kernel.loads(ref()), of(node).attempts) == (1, 1)


@HANGS
@pytest.mark.parametrize("journal", [True, False], ids=["journal", "journal lost"])
async def test_next_daemon_knows_the_process_and_starts_none(
    node: Node, hangs: str, journal: bool
) -> None:
    await stuck_load(node, hangs)
    await node.restart(journal=journal)
    await node.want(desired())
    await node.clock.advance(LONG)
    assert TOLD in error_of(node)[1]
    assert node.kernel.loads(ref()) == 1


@HANGS
async def test_daemon_that_ends_before_the_deadline_leaves_a_process_that_is_known(
    node: Node, hangs: str
) -> None:
    node.kernel.gates[ref()] = asyncio.Event()
    node.kernel.interrupted = Interrupted.BEFORE
    await stuck_load(node, hangs)
    del node.kernel.gates[ref()]
    await node.restart()
    await node.clock.advance(LONG)
    assert of(node).state is ModuleState.PENDING
    assert error_of(node)[0] == Reason.STILL_RUNNING
    assert TOLD in error_of(node)[1]
    assert node.kernel.loads(ref()) == 1


@HANGS
@pytest.mark.parametrize("restart", [False, True], ids=["same daemon", "next daemon"])
@pytest.mark.parametrize("live", [True, False], ids=["init succeeds", "init fails"])
async def test_end_of_the_process_is_noticed_and_the_kernel_decides(
    node: Node, hangs: str, restart: bool, live: bool
) -> None:
    await stuck_load(node, hangs)
    if restart:
        await node.restart()
    await node.clock.advance(LONG)
    node.kernel.end(ref(), live=live)
    await node.clock.advance(2.0)
    said = of(node)
    assert (said.state, said.in_kernel, said.error) == (ModuleState.LOADED, True, None)
    # The killed process has loaded what it was in, and nothing behind it.
    own_came_late = hangs == "m" and live
    assert node.kernel.loads(ref()) == (1 if own_came_late else 2)
    assert ("devices may be missing" in said.warning) is own_came_late
    await node.want()
    assert node.kernel.rows == {}


@pytest.mark.parametrize("restart", [False, True], ids=["same daemon", "next daemon"])
async def test_what_an_unseen_load_brings_in_the_end_goes_with_its_module(
    node: Node, restart: bool
) -> None:
    await stuck_load(node, "")
    await node.clock.advance(LONG)
    if restart:
        await node.restart()
    node.kernel.insmod("dep", "v-dep")
    node.kernel.end(ref(), live=True)
    await node.clock.advance(2.0)
    assert of(node).state is ModuleState.LOADED
    await node.want()
    assert node.kernel.rows == {}


@pytest.mark.parametrize("other", OTHERS.values(), ids=list(OTHERS))
@pytest.mark.parametrize("restart", [False, True], ids=["same daemon", "next daemon"])
async def test_module_that_touches_the_same_waits_and_says_for_whom(
    node: Node, other: DesiredModule, restart: bool
) -> None:
    await stuck_load(node, "dep")
    await node.want(desired(), other)
    if restart:
        await node.restart()
    await node.clock.advance(LONG)
    assert of(node, "other").state is ModuleState.PENDING
    reason, message = error_of(node, "other")
    assert reason == Reason.STILL_RUNNING
    assert f"process {PID} (modprobe m), which has not ended for Module ns/m" in message
    assert node.kernel.loads(ref("other")) == 0
    node.kernel.end(ref(), live=False)
    await node.clock.advance(LONG)
    assert node.kernel.loads(ref("other")) == 1
    assert of(node, "other").state is ModuleState.LOADED


async def test_module_waits_while_somebody_else_loads_its_dependency(node: Node) -> None:
    node.kernel.insmod("dep", "v-dep")
    row = node.kernel.rows["dep"]
    node.kernel.rows["dep"] = type(row)(name="dep", build="v-dep", state="Loading")
    await node.want(desired())
    await node.clock.advance(LONG)
    assert node.kernel.loads(ref()) == 0
    node.kernel.rows["dep"] = row
    await node.clock.advance(2.0)
    assert of(node).state is ModuleState.LOADED


async def test_other_modules_go_on(node: Node) -> None:
    await stuck_load(node, "dep", desired("alone", digest=ALONE))
    assert of(node, "alone").state is ModuleState.LOADED
    await node.want(desired())
    assert node.said("alone") is None
    assert "alone" not in node.kernel.rows


@pytest.mark.parametrize("restart", [False, True], ids=["same daemon", "next daemon"])
@pytest.mark.parametrize("live", [True, False], ids=["init succeeds", "init fails"])
async def test_deleted_module_waits_for_its_process_and_leaves_nothing(
    node: Node, restart: bool, live: bool
) -> None:
    await stuck_load(node, "dep")
    await node.want()
    if restart:
        await node.restart()
    await node.clock.advance(LONG)
    assert of(node).state is ModuleState.UNLOADING
    assert TOLD in error_of(node)[1]
    assert node.kernel.unloads(ref()) == 0
    node.kernel.end(ref(), live=live)
    await node.clock.advance(2.0)
    assert node.said() is None
    assert node.kernel.rows == {}


async def test_changed_module_waits_for_its_process(node: Node) -> None:
    await stuck_load(node, "m")
    await node.want(desired(digest=B))
    await node.clock.advance(LONG)
    assert TOLD in error_of(node)[1]
    assert len(node.kernel.calls) == 1
    node.kernel.end(ref(), live=True)
    await node.clock.advance(2.0)
    assert node.kernel.rows["m"].build == "v-m2"
    assert of(node).state is ModuleState.LOADED


@pytest.mark.parametrize("restart", [False, True], ids=["same daemon", "next daemon"])
async def test_stuck_removal_is_told_and_its_end_is_nobody_elses_work(
    node: Node, restart: bool, caplog: pytest.LogCaptureFixture
) -> None:
    await node.want(desired())
    node.kernel.stuck[ref()] = "m"
    await node.want(desired(digest=B))
    if restart:
        await node.restart()
    await node.clock.advance(LONG)
    assert f"process {PID} (rmmod m) has not ended" in error_of(node)[1]
    assert not of(node).in_kernel
    assert (node.kernel.loads(ref()), node.kernel.unloads(ref())) == (1, 1)
    # Nor is what is on its way out taken for what is desired.
    await node.want(desired())
    assert of(node).state is not ModuleState.LOADED
    node.kernel.end(ref(), live=False)
    await node.clock.advance(2.0)
    assert of(node).state is ModuleState.LOADED
    assert "module vanished from the kernel" not in caplog.messages
    await node.want()
    assert node.kernel.rows == {}


async def test_processes_are_counted_and_logged_once(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kmm_daemon")
    await stuck_load(node, "m")
    await node.clock.advance(LONG)
    assert b"kmm_daemon_unended_processes 1.0" in node.metrics.exposition()
    assert caplog.messages.count("process has not ended") == 1
    node.kernel.end(ref(), live=True)
    await node.clock.advance(2.0)
    assert b"kmm_daemon_unended_processes 0.0" in node.metrics.exposition()
    assert caplog.messages.count("process has ended") == 1


async def test_process_that_a_step_waits_for_is_not_counted(node: Node) -> None:
    node.kernel.gates[ref()] = asyncio.Event()
    await stuck_load(node, "m")
    await node.clock.advance(LONG)
    assert of(node).state is ModuleState.LOADING
    assert b"kmm_daemon_unended_processes 0.0" in node.metrics.exposition()
