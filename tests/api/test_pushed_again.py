"""A tag that is pushed again: taken up where nothing of it could be loaded, else left alone."""

from collections import deque
from functools import partial

from kmm_common.api.names import Reason
from support.fleet import Fleet, eventually
from support.simkernel import failure
from support.simnode import SimNode

PATIENT = 60.0
WRONG = failure(Reason.WRONG_VERMAGIC, "built for another kernel", retry=False)


async def test_image_that_no_node_could_load_is_replaced_by_what_is_pushed_under_its_tag(
    fleet: Fleet,
) -> None:
    nodes = await fleet.three()
    for node in nodes:
        node.kernel.failing[fleet.ref()] = deque([WRONG])
    old = fleet.registry.tags["kmod:1"]
    await fleet.apply()
    await fleet.condition("Stalled", reason="NodesFailed")
    assert {await digest(fleet, node) for node in nodes} == {old}
    new = fleet.push(content="2")
    for node in nodes:
        await eventually(partial(digest, fleet, node), lambda found: found == new, seconds=PATIENT)
    await fleet.loaded()
    await fleet.condition("Ready", reason="Ready")


async def test_digest_that_one_node_has_loaded_stays_whatever_fails_elsewhere(fleet: Fleet) -> None:
    good, bad = await fleet.node("a"), await fleet.node("b")
    bad.kernel.failing[fleet.ref()] = deque([WRONG] * 2)
    old = fleet.registry.tags["kmod:1"]
    await fleet.apply()
    await fleet.loaded(good)
    await fleet.condition("Stalled", reason="NodesFailed")
    fleet.push(content="2")
    asked = fleet.registry.count("manifests")
    await fleet.apply("other", container={"containerImage": fleet.image(tag="1")})
    await fleet.loaded(name="other")
    await fleet.reconciled(modules=2)
    assert [await digest(fleet, node) for node in (good, bad)] == [old, old]
    assert fleet.registry.count("manifests") == asked + 1
    assert (good.kernel.loads(fleet.ref()), good.kernel.unloads(fleet.ref())) == (1, 0)


async def digest(fleet: Fleet, node: SimNode) -> str:
    """Return the digest that a node is to load for Module m."""
    return str((await fleet.entries(node)).get("m", {}).get("imageDigest"))
