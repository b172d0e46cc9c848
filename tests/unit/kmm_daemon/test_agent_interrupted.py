"""A daemon that ends in the middle of its work on the kernel, and the next one that goes on."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator

import pytest

from kmm_common.api.names import Reason
from kmm_common.desired import ModuleState
from kmm_daemon.values import LoadedRecord
from support.node import Node, desired, ref
from support.simkernel import Interrupted, SimFile, SimKernel, failure

A = "sha256:aaaaaaaa"
FILES = {"m": SimFile("v-m", ("dep",)), "dep": SimFile("v-dep")}


class HaltingKernel(SimKernel):
    """Can hold an unload where its module is out and nobody has been told."""

    halted: asyncio.Event | None = None

    async def unload(self, record: LoadedRecord, keep: frozenset[str]) -> None:
        if self.halted:
            self.rmmod(record.kernel_modules[0])
            await self.halted.wait()
        await super().unload(record, keep)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node whose image brings `dep` with `m`."""
    node = Node(kernel=HaltingKernel())
    node.kernel.images.files[A] = FILES
    await node.start()
    yield node
    await node.stop()


async def interrupted_load(node: Node) -> None:
    """Leave `dep` in the kernel, brought by a load whose daemon is gone."""
    node.kernel.gates[ref()] = asyncio.Event()
    node.kernel.interrupted = Interrupted.BETWEEN
    await node.want(desired())
    await node.stop()
    del node.kernel.gates[ref()]
    assert set(node.kernel.rows) == {"dep"}


async def test_dependency_of_an_interrupted_load_goes_with_the_module(node: Node) -> None:
    await interrupted_load(node)
    await node.restart()
    assert set(node.kernel.rows) == {"m", "dep"}
    await node.want()
    assert node.kernel.rows == {}


async def test_dependency_is_remembered_over_a_second_interruption(node: Node) -> None:
    await interrupted_load(node)
    node.kernel.gates[ref()] = asyncio.Event()
    await node.restart()
    await node.stop()
    del node.kernel.gates[ref()]
    await node.restart()
    await node.want()
    assert node.kernel.rows == {}


async def test_dependency_is_remembered_over_a_failed_load(node: Node) -> None:
    await interrupted_load(node)
    node.kernel.failing[ref()] = deque([failure(Reason.DEVICE_ERROR, retry=False)])
    await node.restart()
    await node.want()
    assert node.kernel.rows == {}


async def test_dependency_of_an_interrupted_load_goes_when_the_module_is_not_wanted(
    node: Node,
) -> None:
    await interrupted_load(node)
    node.kernel.images.gates[ref()] = asyncio.Event()
    await node.restart()
    await node.want()
    assert node.kernel.rows == {}
    assert node.said() is None
    assert node.agent.reports.latest.observed_generation == 2


async def test_dependency_of_an_interrupted_load_stays_for_who_stands_on_it_by_then(
    node: Node,
) -> None:
    await interrupted_load(node)
    node.kernel.images.gates[ref()] = asyncio.Event()
    other = desired("other", digest="sha256:other", modules_loading_order=("dep",))
    node.kernel.images.files["sha256:other"] = {"other": SimFile("v-o"), "dep": SimFile("v-dep")}
    await node.restart()
    await node.want(desired(), other)
    await node.want(other)
    assert set(node.kernel.rows) == {"other", "dep"}
    await node.want()
    assert node.kernel.rows == {}


async def test_module_of_somebody_else_in_the_place_of_the_dependency_is_left_alone(
    node: Node,
) -> None:
    await interrupted_load(node)
    node.kernel.rmmod("dep")
    node.kernel.insmod("dep", "another")
    await node.restart()
    await node.want()
    assert set(node.kernel.rows) == {"dep"}


async def test_load_that_failed_claims_nothing_that_comes_later(node: Node) -> None:
    node.kernel.failing[ref()] = deque([failure(Reason.DEVICE_ERROR, retry=False)])
    await node.want(desired())
    await node.clock.advance(31)
    await node.stop()
    node.kernel.insmod("dep", "v-dep")
    await node.restart()
    await node.want()
    assert set(node.kernel.rows) == {"dep"}


async def interrupted_unload(node: Node) -> None:
    """Leave `dep` in the kernel behind an unload of `m` whose daemon is gone."""
    assert isinstance(node.kernel, HaltingKernel)
    await node.want(desired())
    node.kernel.halted = asyncio.Event()
    await node.want(desired(parameters=("a=1",)))
    await node.stop()
    node.kernel.halted = None
    assert set(node.kernel.rows) == {"dep"}


async def test_own_interrupted_unload_is_not_told_as_somebody_elses(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    await interrupted_unload(node)
    node.kernel.images.gates[ref()] = asyncio.Event()
    caplog.set_level(logging.INFO, "kmm_daemon")
    await node.restart()
    said = node.said()
    assert said is not None
    assert (said.state, said.in_kernel, said.error) == (ModuleState.PULLING, False, None)
    assert "module vanished from the kernel" not in caplog.messages
    assert b"kmm_daemon_drift_total 0.0" in node.metrics.exposition()


async def test_interrupted_reload_is_finished_and_leaves_nothing_later(node: Node) -> None:
    await interrupted_unload(node)
    await node.restart()
    assert node.kernel.parameters["m"] == ("a=1",)
    await node.want()
    assert node.kernel.rows == {}


async def test_interrupted_removal_is_finished(node: Node) -> None:
    assert isinstance(node.kernel, HaltingKernel)
    await node.want(desired(firmware_path="/firmware"))
    node.kernel.halted = asyncio.Event()
    await node.want()
    node.kernel.rmmod("dep")
    await node.stop()
    node.kernel.halted = None
    await node.restart()
    assert (node.kernel.rows, node.kernel.firmware, node.said()) == ({}, set(), None)
