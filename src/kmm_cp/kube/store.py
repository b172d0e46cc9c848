"""What an informer knows of a collection."""

from collections.abc import Iterator, Mapping, Set
from typing import TypeVar

T = TypeVar("T")

NO_VERSION = "0"
"""Before every resourceVersion."""


class Store(Mapping[str, T]):
    """Decoded objects by "name" or "namespace/name"; only their informer writes to it.

    An object that cannot be decoded is `unreadable`. It is no deleted object: where it could be
    decoded before, the store still has what it was then.
    """

    def __init__(self) -> None:
        self._values: dict[str, T] = {}
        self._versions: dict[str, str] = {}
        """resourceVersion by key, of unreadable objects too."""
        self._unreadable: set[str] = set()

    def __getitem__(self, key: str) -> T:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def unreadable(self) -> Set[str]:
        """Keys of the objects that are there, but cannot be decoded."""
        return self._unreadable

    @property
    def versions(self) -> Mapping[str, str]:
        """resourceVersion of every object there is."""
        return self._versions

    def put(self, key: str, version: str, value: T) -> T | None:
        """Take in an object; return what it was before, None if that was not what was served."""
        self._versions[key] = version
        before = self._values.get(key)
        self._values[key] = value
        if key in self._unreadable:
            self._unreadable.remove(key)
            return None
        return before

    def mark_unreadable(self, key: str, version: str) -> None:
        """Note that an object is there and cannot be decoded."""
        self._versions[key] = version
        self._unreadable.add(key)

    def forget_versions(self) -> None:
        """Have nothing compared with what is known: the server may have been put back since."""
        self._versions = dict.fromkeys(self._versions, NO_VERSION)

    def drop(self, key: str) -> T | None:
        """Forget an object; return what it was last."""
        del self._versions[key]
        self._unreadable.discard(key)
        return self._values.pop(key, None)
