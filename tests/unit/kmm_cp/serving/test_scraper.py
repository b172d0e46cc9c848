"""When Prometheus is given another certificate; how it is stored is tested with a real server."""

from datetime import timedelta

import pytest

from kmm_cp.serving.authority import NEXT_AFTER, SEEN_AFTER, Authorities, turned
from kmm_cp.serving.issue import scraper_certificate
from kmm_cp.serving.scraper import CA, CERT, KEY, is_due
from support.virtualclock import START

LIFE = timedelta(days=1)
HELD = turned(None, now=START, leaf=LIFE)


def stored(held: Authorities = HELD) -> dict[str, bytes]:
    cert, key = scraper_certificate(held.current, "prometheus.test", now=START, life=LIFE)
    return {CERT: cert, KEY: key, CA: held.bundle}


def test_certificate_stays_for_two_thirds_of_its_life() -> None:
    assert not is_due(stored(), HELD, START + LIFE * 0.6)
    assert is_due(stored(), HELD, START + LIFE * 0.7)


@pytest.mark.parametrize("name", [CERT, KEY, CA])
def test_what_is_missing_is_made(name: str) -> None:
    assert is_due({**stored(), name: b""}, HELD, START)
    assert is_due({key: value for key, value in stored().items() if key != name}, HELD, START)


@pytest.mark.parametrize("name", [CERT, KEY, CA])
def test_what_was_written_by_hand_is_replaced(name: str) -> None:
    assert is_due({**stored(), name: b"spoilt"}, HELD, START)
    # Each is good for itself.
    other = stored(turned(None, now=START, leaf=LIFE))
    assert is_due({**stored(), name: other[name]}, HELD, START)


def test_pair_of_another_authority_is_replaced() -> None:
    other = stored(turned(None, now=START, leaf=LIFE))
    assert is_due({**other, CA: HELD.bundle}, HELD, START)


def test_every_step_of_a_take_over_by_another_authority_brings_another_certificate() -> None:
    trusted = turned(HELD, now=START + NEXT_AFTER, leaf=LIFE)
    assert is_due(stored(), trusted, START)
    signs = turned(trusted, now=START + NEXT_AFTER + SEEN_AFTER, leaf=LIFE)
    assert signs.current != HELD.current
    assert is_due({**stored(), CA: trusted.bundle}, signs, START)
