"""Who may lead, by one record and the clocks of each candidate alone."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_cp.runtime.election import Claim, Record, Sight, Timing, Wait, decide, released, seen

TIMING = Timing()
THEIRS = Record(holder="other", duration=15.0, transitions=3, stamp="12:00:00")
MINE = replace(THEIRS, holder="me")


def decided(
    sight: Sight | None, *, now: float = 0.0, term: int | None = -1, timing: Timing = TIMING
) -> Claim | Wait:
    return decide(sight, identity="me", term=term, now=now, timing=timing)


def claim(transitions: int) -> Claim:
    return Claim(record=Record(holder="me", duration=15.0, transitions=transitions))


def test_record_that_was_never_seen_is_made() -> None:
    assert decided(None) == claim(0)


@pytest.mark.parametrize(
    ("now", "wait"), [(100.0, 2.0), (112.9, 2.0), (113.5, 1.5), (114.999, pytest.approx(0.001))]
)
def test_record_of_another_is_waited_for_from_its_last_change_on(now: float, wait: float) -> None:
    assert decided(Sight(record=THEIRS, since=100.0), now=now) == Wait(seconds=wait)


def test_record_that_has_not_changed_for_its_duration_is_taken() -> None:
    assert decided(Sight(record=THEIRS, since=100.0), now=115.0) == claim(4)


def test_duration_is_what_the_holder_asks_for() -> None:
    sight = Sight(record=replace(THEIRS, duration=40.0), since=0.0)
    assert isinstance(decided(sight, now=39.0), Wait)
    assert decided(sight, now=40.0) == claim(4)


def test_record_without_a_duration_is_given_our_own() -> None:
    sight = Sight(record=replace(THEIRS, duration=0.0), since=0.0)
    assert isinstance(decided(sight, now=14.0), Wait)
    assert decided(sight, now=15.0) == claim(4)


def test_released_record_is_taken_at_once() -> None:
    assert decided(Sight(record=released(THEIRS), since=0.0)) == claim(4)


def test_own_record_is_renewed_however_old() -> None:
    for now in (0.0, 1000.0):
        assert decided(Sight(record=MINE, since=0.0), now=now, term=3) == claim(3)


def test_record_of_an_earlier_life_is_taken_at_once_as_a_new_term() -> None:
    assert decided(Sight(record=MINE, since=0.0), term=None) == claim(4)


def test_record_of_somebody_with_our_name_is_waited_for() -> None:
    assert decided(Sight(record=MINE, since=0.0), term=2) == Wait(seconds=2.0)
    assert decided(Sight(record=MINE, since=0.0), term=2, now=15.0) == claim(4)


def test_only_a_change_begins_the_wait_anew() -> None:
    first = seen(None, THEIRS, 5.0)
    assert seen(first, THEIRS, 9.0) == first
    renewed = replace(THEIRS, stamp="11:00:00")
    assert seen(first, renewed, 9.0) == Sight(record=renewed, since=9.0)


def test_deleted_record_may_still_have_a_leader_and_is_waited_for() -> None:
    gone = seen(seen(None, THEIRS, 5.0), None, 9.0)
    assert isinstance(decided(gone, now=19.0), Wait)
    assert decided(gone, now=20.0) == claim(4)
    assert seen(None, None, 9.0) is None


@given(
    sent=st.floats(0, 1000),
    travel=st.floats(0, 100),
    look=st.floats(0, 100),
    skew=st.floats(-1e6, 1e6),
    duration=st.floats(2, 100),
    share=st.floats(0.1, 0.99),
)
def test_leader_has_stopped_before_another_begins_whatever_the_delays_and_clocks(
    sent: float, travel: float, look: float, skew: float, duration: float, share: float
) -> None:
    """`sent` is the leader's moment of asking; `skew` lies between the two clocks."""
    timing = Timing(duration=duration, renew_deadline=duration * share, retry_period=0.1)
    stops = sent + timing.renew_deadline
    observed = sent + travel + look + skew
    sight = seen(None, replace(THEIRS, duration=duration), observed)
    # 1 us is what floats of this size may be off.
    assert isinstance(decided(sight, now=stops + skew - 1e-6, timing=timing), Wait)
