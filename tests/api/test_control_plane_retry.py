"""A retry that somebody asks for."""

from collections import deque

from kmm_common.api.names import RETRY_ANNOTATION, Reason
from support.fleet import Fleet, eventually
from support.simkernel import failure
from support.simnode import SimNode


async def test_nodes_that_failed_try_again_when_the_annotation_changes_and_others_reload_nothing(
    fleet: Fleet,
) -> None:
    bad, good = await fleet.node("a"), await fleet.node("b")
    broken = failure(Reason.DEVICE_ERROR, "no such device", retry=False)
    bad.kernel.failing[fleet.ref()] = deque([broken, broken])
    await fleet.apply()
    await fleet.condition("Stalled", reason="NodesFailed")
    await fleet.loaded(good)
    await fleet.annotate(RETRY_ANNOTATION, "1")
    await eventually(lambda: _loads(fleet, bad), lambda loads: loads == 2)
    await fleet.settled()
    await fleet.condition("Stalled", reason="NodesFailed")
    await fleet.annotate(RETRY_ANNOTATION, "2")
    await fleet.loaded(bad)
    await fleet.condition("Ready", reason="Ready")
    await fleet.settled()
    assert bad.kernel.loads(fleet.ref()) == 3
    assert (good.kernel.loads(fleet.ref()), good.kernel.unloads(fleet.ref())) == (1, 0)


async def _loads(fleet: Fleet, node: SimNode) -> int:
    return node.kernel.loads(fleet.ref())
