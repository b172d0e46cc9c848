"""Keeps the image store within its bounds without taking away what is used."""

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Collection, Iterator

from kmm_common.logs import log
from kmm_daemon.images.limits import MIB
from kmm_daemon.images.store import Store, evictable

_logger = logging.getLogger(__name__)

_RESERVE = 64 * MIB
"""Of the file system, left free for others."""


class Hold:
    """Names of blobs and trees that one piece of work needs."""

    def __init__(self, holds: "Holds") -> None:
        self._holds = holds
        self.names: set[str] = set()

    def add(self, *names: str) -> None:
        """Keep these until the work is over."""
        fresh = set(names) - self.names
        self.names |= fresh
        self._holds.change(fresh, 1)


class Holds:
    """What is needed by work in progress; threads add to it."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def new(self) -> Iterator[Hold]:
        """Keep what the body adds until the body ends."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            self.change(hold.names, -1)

    def change(self, names: Collection[str], by: int) -> None:
        """Count users of names."""
        with self._lock:
            for name in names:
                self._counts[name] += by
            self._counts += Counter()  # drops the zeros

    def names(self) -> frozenset[str]:
        """Return what is needed now."""
        with self._lock:
            return frozenset(self._counts)


class Room:
    """Evicts from a store. Blocking. Raises OSError where the disk fails."""

    def __init__(self, store: Store, *, max_bytes: int) -> None:
        self.holds = Holds()
        self._store = store
        self._max_bytes = max_bytes

    def make(self, need: int, keep: Collection[str]) -> None:
        """Try to make room for `need` more bytes."""
        items = self._store.items()
        beyond_bound = sum(item.size for item in items) + need - self._max_bytes
        beyond_disk = need + _RESERVE - self._store.free_bytes() if need else 0
        self._evict(max(beyond_bound, beyond_disk), keep)

    def clear(self, keep: Collection[str]) -> None:
        """Evict all that is not used."""
        self._evict(sum(item.size for item in self._store.items()) + 1, keep)

    def _evict(self, surplus: int, keep: Collection[str]) -> None:
        kept = {*keep, *self.holds.names()}
        chosen = evictable(self._store.items(), keep=kept, surplus=surplus)
        for item in chosen:
            self._store.evict(item)
        if chosen:
            freed = sum(item.size for item in chosen)
            log(_logger, logging.INFO, "images evicted", items=len(chosen), bytes=freed)
