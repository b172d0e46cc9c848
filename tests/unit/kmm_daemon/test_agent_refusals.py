"""A change that is known to fail leaves what runs; a desired state that was left stays left."""

from dataclasses import replace

from kmm_common.api.names import Reason
from kmm_common.desired import ModuleState
from kmm_daemon.values import Accepted, NeedsSnapshot
from support.node import Node, desired, ref, snapshot
from support.simkernel import failure

B = "sha256:bbbbbbbb"


async def test_change_that_would_be_refused_leaves_the_old_module_in_the_kernel(
    node: Node,
) -> None:
    await node.want(desired())
    node.kernel.refusing[ref()] = failure(Reason.FIRMWARE_CONFLICT)
    await node.want(desired(digest=B))
    said = node.said()
    assert said is not None and said.error is not None
    assert (said.state, said.in_kernel) == (ModuleState.FAILED, True)
    assert said.error.reason == Reason.FIRMWARE_CONFLICT
    assert node.kernel.calls == [("load", ref())]
    del node.kernel.refusing[ref()]
    await node.clock.advance(11)
    assert node.kernel.calls == [("load", ref()), ("unload", ref()), ("load", ref())]


async def test_uid_that_was_left_is_refused_after_a_restart(node: Node) -> None:
    first = snapshot(1, [desired()], uid="A")
    assert await node.send(first) == Accepted(uid="A", generation=1)
    assert await node.send(replace(first, uid="B")) == Accepted(uid="B", generation=1)
    await node.restart()
    assert await node.send(replace(first, generation=9)) == NeedsSnapshot(
        reason="uid A was left before"
    )
    assert node.agent.hello().uid == "B"
