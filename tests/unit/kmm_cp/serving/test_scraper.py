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
    assert not is_due(stored(), HELD.bundle, START + LIFE * 0.6)
    assert is_due(stored(), HELD.bundle, START + LIFE * 0.7)


@pytest.mark.parametrize("name", [CERT, KEY, CA])
def test_what_is_missing_is_made(name: str) -> None:
    assert is_due({**stored(), name: b""}, HELD.bundle, START)
    assert is_due(
        {key: value for key, value in stored().items() if key != name}, HELD.bundle, START
    )


def test_text_that_is_no_certificate_is_replaced() -> None:
    assert is_due({**stored(), CERT: b"spoilt"}, HELD.bundle, START)


def test_every_step_of_a_take_over_by_another_authority_brings_another_certificate() -> None:
    trusted = turned(HELD, now=START + NEXT_AFTER, leaf=LIFE)
    assert is_due(stored(), trusted.bundle, START)
    signs = turned(trusted, now=START + NEXT_AFTER + SEEN_AFTER, leaf=LIFE)
    assert signs.current != HELD.current
    assert is_due({**stored(), CA: trusted.bundle}, signs.bundle, START)
