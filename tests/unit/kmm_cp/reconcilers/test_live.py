"""Which nodes have a session."""

import pytest

from kmm_cp.reconcilers.live import LiveNodes, flipped


@pytest.mark.parametrize(
    ("here", "lists", "live"),
    [
        ("", {}, False),
        ("a", {}, True),
        ("", {"replica-1": frozenset("b"), "replica-2": frozenset("a")}, True),
        ("b", {"replica-1": frozenset("b")}, False),
    ],
)
def test_node_is_live_if_this_or_any_replica_serves_it(
    here: str, lists: dict[str, frozenset[str]], live: bool
) -> None:
    nodes = LiveNodes(lists)
    nodes.here = frozenset(here)
    assert nodes("a") is live


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [(None, None, ""), (None, "ab", "ab"), ("ab", "bc", "ac"), ("ab", None, "ab"), ("a", "a", "")],
)
def test_nodes_that_came_or_went_are_flipped(
    old: str | None, new: str | None, changed: str
) -> None:
    assert flipped(old, new) == frozenset(changed)
