"""Bounds what one peer can have of what all share: handshakes of a host, connections of a pod."""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Generic, TypeVar

HANDSHAKES_PER_HOST = 256
"""That one address may have under way: a node has one daemon, a network behind a NAT has many."""
CONNECTIONS_PER_POD = 4
"""A daemon has one; after its network was cut it may have some that nobody has missed yet."""


class CrowdedError(OSError):
    """A host has as many handshakes under way as it may."""


class Handshakes:
    """Those that are under way, by host."""

    def __init__(self) -> None:
        self._of = Counter[str]()

    def begin(self, host: str) -> None:
        """Count one more. CrowdedError if the host has too many."""
        if self._of[host] >= HANDSHAKES_PER_HOST:
            raise CrowdedError(f"{HANDSHAKES_PER_HOST} others of its host have no TLS yet")
        self._of[host] += 1

    def end(self, host: str) -> None:
        """Count one less, however it ended."""
        self._of[host] -= 1
        if not self._of[host]:
            del self._of[host]


C = TypeVar("C")


class Connections(Generic[C]):
    """Those that are open, by whom their certificate names, oldest first."""

    def __init__(self, *, close: Callable[[C], None], is_idle: Callable[[C], bool]) -> None:
        """`is_idle` tells whether nothing runs on one."""
        self._close = close
        self._is_idle = is_idle
        self._of = defaultdict[str, list[C]](list)

    def opened(self, name: str, connection: C) -> None:
        """Take in a new one; for one too many the oldest idle one goes, else the oldest."""
        before = self._of[name]
        if len(before) >= CONNECTIONS_PER_POD:
            oldest = next(filter(self._is_idle, before), before[0])
            self.closed(name, oldest)
            self._close(oldest)
        self._of[name].append(connection)

    def closed(self, name: str, connection: C) -> None:
        """Forget one; whoever is told twice forgets once."""
        if connection in self._of[name]:
            self._of[name].remove(connection)
        if not self._of[name]:
            del self._of[name]
