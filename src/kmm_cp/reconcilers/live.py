"""Which nodes have a session, as the replicas' lists say."""

from collections.abc import Callable, Iterable, Mapping

Listed = frozenset[str]


class LiveNodes:
    """The nodes that this replica serves, and those in any replica's list."""

    def __init__(self, lists: Mapping[str, Listed]) -> None:
        """`lists` is the cache of the ConfigMaps of served nodes."""
        self.here: Listed = frozenset()
        """What this replica serves now; its own list says it some seconds later."""
        self._lists = lists

    def __call__(self, node: str) -> bool:
        """Tell whether a replica holds a session of the node."""
        return node in self.here or any(node in listed for listed in self._lists.values())


def flipped(old: Iterable[str] | None, new: Iterable[str] | None) -> Listed:
    """Return the nodes that came or went with a change of one list."""
    return frozenset(old or ()) ^ frozenset(new or ())


Live = Callable[[str], bool]
