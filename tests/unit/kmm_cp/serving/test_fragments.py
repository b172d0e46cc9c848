from collections.abc import Iterable

import pytest

from kmm_common.desired import DesiredModule, content_hash
from kmm_common.wire import convert, fragments
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_cp.serving import fragments as serving_fragments
from kmm_cp.serving.fragments import Fragments
from kmm_cp.serving.updates import Kind, Push
from support.desired import desired
from support.serving import target

ONE, TWO, THREE = desired("one"), desired("two"), desired("three")


def test_encoded_push_is_the_update_it_stands_for() -> None:
    state = target(7, ONE, TWO)
    push = Push(kind=Kind.DIFF, base_generation=6, upserts=(TWO,), removals=(THREE.ref,))
    update = pb.Update.parse(Fragments().encode(state, push, session_id="s", protocol_version=1))
    assert (update.kind, update.session_id) == (pb.UpdateKind.DIFF, "s")
    assert (update.uid, update.generation, update.base_generation) == ("nms-1", 7, 6)
    assert update.content_hash == content_hash([ONE, TWO])
    assert [convert.desired_from_message(one) for one in update.upserts] == [TWO]
    assert [convert.ref_from_message(one) for one in update.removals] == [THREE.ref]


def test_each_module_is_encoded_and_each_state_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    hashed: list[int] = []

    def upsert(module: DesiredModule) -> bytes:
        encoded.append(module.name)
        return fragments.update(b"", [])

    def hashing(modules: Iterable[DesiredModule]) -> bytes:
        hashed.append(1)
        return b""

    monkeypatch.setattr(fragments, "upsert", upsert)
    monkeypatch.setattr(serving_fragments, "content_hash", hashing)
    cache = Fragments(capacity=2)
    push = Push(kind=Kind.SNAPSHOT, upserts=(ONE, TWO))
    for node in range(50):
        # Equal values, not the same objects: two nodes' states are decoded apart.
        cache.encode(
            target(7, desired("one"), desired("two")),
            push,
            session_id=str(node),
            protocol_version=1,
        )
    assert encoded == ["one", "two"]
    assert len(hashed) == 1
    cache.encode(
        target(8, THREE),
        Push(kind=Kind.SNAPSHOT, upserts=(THREE,)),
        session_id="",
        protocol_version=1,
    )
    cache.encode(
        target(7, ONE, TWO),
        Push(kind=Kind.SNAPSHOT, upserts=(TWO, ONE)),
        session_id="",
        protocol_version=1,
    )
    assert encoded == ["one", "two", "three", "one"], "the one used longest ago was forgotten"
