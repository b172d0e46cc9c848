"""The reference names everything that users can meet."""

from pathlib import Path

import pytest

from kmm_common.api.names import Reason
from kmm_common.logs import Fact

REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference"


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_explained(reason: Reason) -> None:
    assert f"`{reason.value}`" in (REFERENCE / "reasons.md").read_text()


def test_every_setting_has_a_meaning() -> None:
    rows = [line for line in (REFERENCE / "settings.md").read_text().splitlines() if "| `" in line]
    assert rows
    assert not [row for row in rows if row.endswith("|  |")]


@pytest.mark.parametrize("fact", list(Fact))
def test_every_fact_in_the_logs_is_explained(fact: Fact) -> None:
    assert fact.value in (REFERENCE / "logs.md").read_text()
