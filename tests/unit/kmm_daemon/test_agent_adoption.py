"""Modules that are in the kernel before their Module is known on the node."""

import pytest

from kmm_common.api.names import Reason
from kmm_common.desired import ModuleState
from support.node import Node, desired, ref
from support.simkernel import failure

BYTES = "aaaaaaaa"
"""The build of the image's module."""


@pytest.mark.parametrize("has", ["2", "N"])
async def test_module_with_another_parameter_is_not_adopted(node: Node, has: str) -> None:
    node.kernel.insmod("m", BYTES)
    node.kernel.parameters["m"] = (f"a={has}",)
    await node.want(desired(parameters=("a=1",)))
    said = node.said()
    assert said is not None and said.error is not None
    assert (said.state, said.in_kernel) == (ModuleState.FAILED, False)
    assert said.error.reason == Reason.LOADED_FROM_ELSEWHERE
    assert said.error.message == (
        f"m is in the kernel with a={has}, the Module asks for a=1: ask for what is there, or "
        "unload m on a drained node"
    )
    assert node.kernel.calls == []
    node.kernel.rmmod("m")
    await node.clock.advance(31)
    assert node.kernel.parameters["m"] == ("a=1",)


async def test_module_with_the_same_parameter_is_adopted_without_a_modprobe(node: Node) -> None:
    node.kernel.insmod("m", BYTES)
    node.kernel.parameters["m"] = ("a=16",)
    await node.want(desired(parameters=("a=0x10",)))
    said = node.said()
    assert said is not None
    assert (said.state, said.in_kernel) == (ModuleState.LOADED, True)
    assert node.kernel.calls == []


async def test_parameters_changed_while_the_journal_was_lost_are_noticed(node: Node) -> None:
    await node.want(desired(parameters=("a=1",)))
    await node.restart(journal=False)
    await node.want(desired(parameters=("a=2",)))
    said = node.said()
    assert said is not None and said.error is not None
    assert said.error.reason == Reason.LOADED_FROM_ELSEWHERE


async def test_adoption_brings_the_firmware(node: Node) -> None:
    node.kernel.insmod("m", BYTES)
    await node.want(desired(firmware_path="/firmware"))
    assert node.kernel.firmware == {ref()}
    assert node.kernel.calls == []


async def test_adoption_whose_firmware_is_refused_fails_and_is_tried_again(node: Node) -> None:
    node.kernel.insmod("m", BYTES)
    node.kernel.refusing[ref()] = failure(Reason.FIRMWARE_CONFLICT)
    await node.want(desired(firmware_path="/firmware"))
    said = node.said()
    assert said is not None and said.error is not None
    assert (said.state, said.error.reason) == (ModuleState.FAILED, Reason.FIRMWARE_CONFLICT)
    del node.kernel.refusing[ref()]
    await node.clock.advance(11)
    said = node.said()
    assert said is not None and said.state is ModuleState.LOADED
