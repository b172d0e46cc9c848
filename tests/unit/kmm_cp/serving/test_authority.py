"""When our own authority is followed by another, and what is kept of it."""

from datetime import UTC, datetime, timedelta

import pytest

from kmm_cp.serving.authority import (
    LIFE,
    NEXT_AFTER,
    SEEN_AFTER,
    Authorities,
    AuthorityError,
    restored,
    stored,
    turned,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
LEAF = timedelta(days=1)
HOUR = timedelta(hours=1)


def at(offset: timedelta, held: Authorities | None) -> Authorities:
    return turned(held, now=START + offset, leaf=LEAF)


@pytest.fixture(scope="module")
def first() -> Authorities:
    return at(timedelta(), None)


def test_nothing_changes_before_it_is_due(first: Authorities) -> None:
    assert at(NEXT_AFTER - HOUR, first) is first
    announced = at(NEXT_AFTER, first)
    assert at(NEXT_AFTER + SEEN_AFTER - HOUR, announced) is announced


def test_authority_is_trusted_before_it_signs_and_after_it_has_signed(first: Authorities) -> None:
    announced = at(NEXT_AFTER, first)
    assert announced.current is first.current
    assert announced.next is not None
    assert announced.bundle.count(b"BEGIN CERTIFICATE") == 2
    took_over = at(NEXT_AFTER + SEEN_AFTER, announced)
    assert took_over.current is announced.next
    assert took_over.previous == first.current.certificate
    # What the first one signed in its last moment, by a replica that saw it a minute late.
    last = NEXT_AFTER + SEEN_AFTER + LEAF
    assert at(last + HOUR, took_over).previous is not None
    assert at(last + SEEN_AFTER, took_over).previous is None


def test_authority_that_has_expired_is_followed_at_once(first: Authorities) -> None:
    late = at(LIFE, first)
    assert late.current is not first.current
    assert (late.next, late.previous) == (None, None)


def test_what_is_stored_comes_back_and_old_keys_do_not_stay(first: Authorities) -> None:
    took_over = at(NEXT_AFTER + SEEN_AFTER, at(NEXT_AFTER, first))
    data = stored(took_over)
    assert set(data) == {"current.crt", "current.key", "previous.crt"}
    back = restored(data)
    assert back is not None
    assert back.bundle == took_over.bundle
    assert restored({}) is None
    assert restored({"somebody's": b"note"}) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"current.key": b""}, "current.key: is no private key"),
        ({"current.crt": b"x"}, "current.crt: is no certificate"),
        ({"previous.crt": b"x"}, "previous.crt: is no certificate"),
        ({"next.crt": "other"}, "next.key: is no private key"),
        ({"current.key": "other"}, "current.key: is not the key of current.crt"),
    ],
)
def test_damage_is_named_without_a_word_of_the_key(
    first: Authorities, change: dict[str, bytes | str], words: str
) -> None:
    other = stored(at(timedelta(), None))
    others = {"next.crt": other["current.crt"], "current.key": other["current.key"]}
    new = {name: others[name] if text == "other" else text for name, text in change.items()}
    with pytest.raises(AuthorityError, match=f"{words}.*; remove all of the Secret's data"):
        restored({**stored(first), **new})  # type: ignore[dict-item]
