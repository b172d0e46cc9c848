"""Firmware that a former daemon, or a Module gone while the node was down, has left."""

from collections import deque
from collections.abc import AsyncIterator

import pytest

from kmm_common.api.names import Reason
from kmm_common.desired import ModuleRef
from kmm_daemon.agent import Pace
from support.node import Node, desired, ref
from support.simkernel import SimKernel, failure

FIRMWARE = "/firmware"
FORMER = ref("former")


class StubbornKernel(SimKernel):
    """Refuses to remove firmware while told so."""

    read_only = False

    async def keep_firmware_of(self, refs: frozenset[ModuleRef]) -> None:
        if self.read_only:
            raise failure(Reason.FIRMWARE_FAILED, "/var/lib/firmware: Read-only file system")
        await super().keep_firmware_of(refs)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node on which a Module that nobody knows any more has left firmware."""
    node = Node(kernel=StubbornKernel())
    node.kernel.firmware.add(FORMER)
    await node.start()
    yield node
    await node.stop()


async def test_firmware_of_an_unknown_module_goes_with_the_first_desired_state(node: Node) -> None:
    await node.clock.advance(3600)
    assert node.kernel.firmware == {FORMER}, "silence removes nothing"
    await node.want(desired(firmware_path=FIRMWARE))
    assert node.kernel.firmware == {ref()}


async def test_firmware_of_a_module_that_went_while_the_node_was_down_is_removed(
    node: Node,
) -> None:
    stays, goes = desired("a", firmware_path=FIRMWARE), desired("b", firmware_path=FIRMWARE)
    await node.want(stays, goes)
    await node.reboot()
    assert node.kernel.firmware == {ref("a"), ref("b")}
    await node.want(stays)
    assert node.kernel.firmware == {ref("a")}


async def test_daemon_that_learns_nothing_new_after_its_start_removes_old_firmware_too(
    node: Node,
) -> None:
    await node.want(desired(firmware_path=FIRMWARE))
    node.kernel.firmware.add(FORMER)
    await node.restart()
    assert node.kernel.firmware == {ref(), FORMER}
    node.generation -= 1
    await node.want(desired(firmware_path=FIRMWARE))
    assert node.kernel.firmware == {ref()}


async def test_firmware_of_a_module_that_was_never_loaded_goes_with_the_wish_for_it(
    node: Node,
) -> None:
    stays, goes = desired("a", firmware_path=FIRMWARE), desired("b", firmware_path=FIRMWARE)
    ended = failure(Reason.TIMED_OUT, "modprobe took more than 60 s")
    node.kernel.failing[ref("b")] = deque([ended])
    await node.want(stays, goes)
    # What a load that was ended has left: its init might yet have asked for it.
    node.kernel.firmware.add(ref("b"))
    await node.want(stays)
    assert node.kernel.firmware == {ref("a")}


async def test_firmware_of_a_module_that_cannot_be_unloaded_stays_until_it_can(
    node: Node,
) -> None:
    await node.want(desired(firmware_path=FIRMWARE))
    node.kernel.busy.add("m")
    await node.restart()
    await node.want()
    assert node.kernel.firmware == {ref()}
    node.kernel.busy.clear()
    await node.clock.advance(60)
    assert node.kernel.firmware == set()


async def test_firmware_that_cannot_be_removed_is_tried_again_and_holds_nothing_up(
    node: Node,
) -> None:
    assert isinstance(node.kernel, StubbornKernel)
    node.kernel.read_only = True
    await node.want(desired(firmware_path=FIRMWARE))
    assert "m" in node.kernel.rows
    assert node.kernel.firmware == {ref(), FORMER}
    node.kernel.read_only = False
    await node.clock.advance(Pace().drift_check)
    assert node.kernel.firmware == {ref()}
