"""What a load and an unload cost the API server, from its audit log."""

from collections import Counter
from collections.abc import Iterable

from support.fleet import COUNTED, Fleet, Write, eventually

LOAD_LIMIT = 5.0
UNLOAD_LIMIT = 4.0


def _counted(writes: Iterable[Write]) -> Counter[str]:
    """Count the writes that the limits are for, by what they are."""
    return Counter(
        f"{write.verb} {write.resource}"
        for write in writes
        if write.resource.partition("/")[0] in COUNTED
    )


def _table(title: str, counted: Counter[str], nodes: int) -> float:
    """Print what was written; return it per node."""
    total = sum(counted.values()) / nodes
    rows = [f"  {what:<34} {number:>3}" for what, number in sorted(counted.items())]
    print("\n".join([f"{title}: {total:.2f} API writes per node and module", *rows]))
    return total


async def test_load_costs_five_writes_a_node_and_unload_four(fleet: Fleet) -> None:
    nodes = await fleet.three()
    await fleet.settled()
    await fleet.reconciled_nodes()
    start = fleet.audit_position()
    await fleet.apply()
    await fleet.loaded()
    await fleet.condition("Ready", reason="Ready")
    await fleet.reconciled()
    loads = _counted(fleet.writes(start))
    start = fleet.audit_position()
    await fleet.delete()
    await fleet.gone()
    await fleet.unloaded()
    await fleet.reconciled_nodes()
    unloads = _counted(fleet.writes(start))
    load, unload = _table("load", loads, len(nodes)), _table("unload", unloads, len(nodes))
    assert load <= LOAD_LIMIT
    assert unload <= UNLOAD_LIMIT


async def test_node_that_joins_costs_what_it_needs_and_no_more(fleet: Fleet) -> None:
    """Its object is created and claimed by its daemon besides what a load costs."""
    await fleet.node("a")
    await fleet.apply()
    await fleet.loaded()
    await fleet.condition("Ready", reason="Ready")
    await fleet.reconciled()
    start = fleet.audit_position()
    joined = await fleet.node("b")
    await fleet.loaded(joined)
    await eventually(lambda: fleet.events("default", joined.name))
    counted = _counted(write for write in fleet.writes(start) if joined.name in write.name)
    _table("load on a node that joins", counted, 1)
    assert sum(counted.values()) <= 6


async def test_second_daemon_start_writes_its_claim_only(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await fleet.condition("Ready", reason="Ready")
    await fleet.reconciled()
    start = fleet.audit_position()
    before = (await fleet.state(node) or {})["status"]["daemon"]["instance"]
    await node.restart()
    await eventually(
        lambda: fleet.state(node),
        lambda state: state is not None and state["status"]["daemon"]["instance"] != before,
    )
    await fleet.settled()
    await fleet.reconciled()
    assert _counted(fleet.writes(start)) == {"patch nodemodulesstates/status": 1}


async def test_heartbeats_and_annotations_of_others_cost_no_write(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await fleet.condition("Ready", reason="Ready")
    await fleet.reconciled()
    start = fleet.audit_position()
    node.say_status()
    await fleet.edit_node(node, {"metadata": {"annotations": {"somebody": "else"}}})
    await fleet.reconciled()
    assert fleet.writes(start) == []
