"""The one line at the end of a run counts what was checked, and every violation."""

from kmm_common.logs import Fact
from support.verdict import Tally

ACCEPTED = {"msg": Fact.ACCEPTED, "uid": "u", "generation": 2, "boot_id": "b", "ts": "1"}
OLDER = {**ACCEPTED, "generation": 1}


def test_run_without_a_history_has_no_verdict() -> None:
    assert Tally().verdict() == ""


def test_history_that_grows_is_one_history() -> None:
    tally = Tally()
    tally.check("a", [], {"n": [ACCEPTED]})
    tally.check("a", [], {"n": [ACCEPTED, ACCEPTED]})
    tally.check("b", [], {"n": [ACCEPTED]})
    assert tally.verdict() == "history checker: 2 histories, 3 events, 0 violations"


def test_violations_and_seeds_are_told() -> None:
    tally = Tally()
    found = tally.check("a", [], {"n": [ACCEPTED, OLDER]})
    assert [each.invariant for each in found] == ["ordered"]
    tally.seeded("crashes", (7, 1, 2, 3))
    assert tally.verdict() == (
        "history checker: 1 histories, 2 events, 1 violations; seeds: crashes 1-3, 7"
    )
