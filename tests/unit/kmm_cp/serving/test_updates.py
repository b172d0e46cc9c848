from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.desired import DesiredModule, content_hash
from kmm_cp.serving import updates
from kmm_cp.serving.updates import Kind, Progress, Push
from kmm_cp.serving.values import Journaled, Target
from kmm_daemon.acceptance import accepted
from kmm_daemon.values import DesiredUpdate, NodeDesired, UpdateKind
from support.desired import DESIRED, desired
from support.serving import target

ONE, TWO = desired("one"), desired("two")
STATES = st.lists(DESIRED, max_size=5, unique_by=lambda module: module.ref)


def hash_of(state: Target) -> bytes:
    return content_hash(state.modules)


def planned(state: Target, progress: Progress) -> Push | None:
    return updates.plan(state, hash_of(state), progress)


def as_received(state: Target, push: Push) -> DesiredUpdate:
    return DesiredUpdate(
        kind=UpdateKind(push.kind.value),
        uid=state.uid,
        generation=state.generation,
        base_generation=push.base_generation,
        upserts=tuple(push.upserts),
        removals=tuple(push.removals),
        content_hash=hash_of(state),
    )


@given(STATES, STATES, st.data())
def test_diff_brings_the_daemon_to_the_snapshot_it_stands_for(
    before: list[DesiredModule], other: list[DesiredModule], data: st.DataObject
) -> None:
    kept = data.draw(st.lists(st.sampled_from(before), unique=True)) if before else []
    changed = [replace(one, image_pull_policy="Never") for one in kept[::2]] + kept[1::2]
    after = tuple({one.ref: one for one in [*other, *changed]}.values())
    base = Target(uid="u", generation=4, modules=tuple(before))
    now = Target(uid="u", generation=5, modules=after)
    held = NodeDesired(uid="u", generation=4, modules=base.by_ref())

    diff = planned(now, Progress(sent=base, kind=Kind.SNAPSHOT))
    assert diff is not None
    assert diff.kind is Kind.DIFF
    assert all(base.by_ref().get(one.ref) != one for one in diff.upserts), "only what changed"
    snapshot = planned(now, Progress())
    assert snapshot is not None
    by_diff = accepted(as_received(now, diff), held, ())
    assert isinstance(by_diff, NodeDesired)
    assert by_diff == accepted(as_received(now, snapshot), None, ())


@given(STATES)
def test_daemon_that_is_told_it_is_current_is(modules: list[DesiredModule]) -> None:
    state = Target(uid="u", generation=3, modules=tuple(modules))
    journaled = Journaled(uid="u", generation=3, content_hash=hash_of(state))
    push = planned(state, Progress(journaled=journaled))
    assert push == Push(kind=Kind.UNCHANGED)
    held = NodeDesired(uid="u", generation=3, modules=state.by_ref())
    assert accepted(as_received(state, push), held, ()) == held


NOW = target(5, ONE)
SENT = Progress(sent=NOW, kind=Kind.SNAPSHOT)


@pytest.mark.parametrize(
    ("progress", "kind"),
    [
        (Progress(), Kind.SNAPSHOT),
        (Progress(journaled=Journaled(uid="nms-0", generation=9)), Kind.SNAPSHOT),
        (Progress(journaled=Journaled(uid="nms-1", generation=4)), Kind.SNAPSHOT),
        (Progress(journaled=Journaled(uid="nms-1", generation=5)), Kind.SNAPSHOT),
        (Progress(journaled=Journaled(uid="nms-1", generation=6)), None),
        (SENT, None),
        (Progress(sent=target(6, ONE)), None),
        (Progress(sent=target(4, ONE)), Kind.DIFF),
        (Progress(sent=target(9, ONE, uid="nms-0")), Kind.SNAPSHOT),
        (Progress(refused=("nms-1", 5)), None),
        (Progress(refused=("nms-1", 4)), Kind.SNAPSHOT),
    ],
)
def test_update_that_is_sent(progress: Progress, kind: Kind | None) -> None:
    push = planned(NOW, progress)
    assert (push.kind if push else None) is kind


def test_daemon_that_cannot_use_a_diff_gets_one_snapshot_for_a_generation() -> None:
    after_diff = Progress(sent=NOW, kind=Kind.DIFF)
    first = updates.after_resync(after_diff)
    push = planned(NOW, first)
    assert push is not None
    assert push.kind is Kind.SNAPSHOT
    again = updates.after_resync(updates.after(NOW, push))
    assert planned(NOW, again) is None
    assert planned(NOW, updates.after_resync(again)) is None
    later = target(6, ONE, TWO)
    push = planned(later, again)
    assert push is not None
    assert push.kind is Kind.SNAPSHOT


@pytest.mark.parametrize(
    ("journaled", "cached", "needed"),
    [
        (Journaled(), NOW, True),
        (Journaled(uid="nms-1", generation=5), None, True),
        (Journaled(uid="nms-1", generation=5), NOW, False),
        (Journaled(uid="nms-1", generation=4), NOW, False),
        (Journaled(uid="nms-1", generation=6), NOW, True),
        (Journaled(uid="nms-0", generation=1), NOW, True),
    ],
)
def test_first_answer_comes_from_the_cache_only_if_that_is_not_behind(
    journaled: Journaled, cached: Target | None, needed: bool
) -> None:
    assert updates.needs_quorum(journaled, cached) is needed
