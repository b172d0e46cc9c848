"""Encodes each module and hashes each desired state once, however many nodes get it."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from kmm_common.desired import DesiredModule, content_hash
from kmm_common.wire import fragments
from kmm_common.wire.codec import Pre
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_cp.serving.updates import Kind, Push
from kmm_cp.serving.values import Target

Key = TypeVar("Key")
Value = TypeVar("Value")

CAPACITY = 4096
"""Of each cache; an encoded module has about 400 bytes."""

_KINDS = {
    Kind.SNAPSHOT: pb.UpdateKind.SNAPSHOT,
    Kind.UNCHANGED: pb.UpdateKind.UNCHANGED,
    Kind.DIFF: pb.UpdateKind.DIFF,
}


class Fragments:
    """The caches of one replica; keyed by value, so that they are never stale."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._upserts: _Recent[DesiredModule, bytes] = _Recent(fragments.upsert, capacity)
        self._hashes: _Recent[tuple[DesiredModule, ...], bytes] = _Recent(content_hash, capacity)

    def content_hash(self, target: Target) -> bytes:
        """Return the content hash of a desired state."""
        return self._hashes.get(target.modules)

    def encode(self, target: Target, push: Push, *, session_id: str, protocol_version: int) -> Pre:
        """Return the Update that carries a push."""
        head = fragments.header(
            kind=_KINDS[push.kind],
            session_id=session_id,
            protocol_version=protocol_version,
            uid=target.uid,
            generation=target.generation,
            base_generation=push.base_generation,
            content_hash=self.content_hash(target),
            removals=push.removals,
        )
        return fragments.update(head, map(self._upserts.get, push.upserts))


class _Recent(Generic[Key, Value]):
    """Remembers the results for the keys that were used last."""

    def __init__(self, make: Callable[[Key], Value], capacity: int) -> None:
        self._make = make
        self._capacity = capacity
        self._known: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key) -> Value:
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        value = self._known[key] = self._make(key)
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)
        return value
