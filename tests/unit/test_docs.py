"""The reference names everything that users can meet."""

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import kmm_cp.roles.metrics
import kmm_daemon.metrics
from kmm_common.api import crd
from kmm_common.api.names import Event, Reason
from kmm_common.logs import Fact
from kmm_cp.serving.ports import Refusal
from support.brokenmodules import validations

REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference"
ADMISSION = REFERENCE.parents[1] / "manifests/base/admission.yaml"
PROMISES = REFERENCE.parent / "explanation/promises.md"


def table_rows(page: Path) -> list[dict[str, str]]:
    """Return the rows of a page's tables, by the heads of their columns."""
    found, heads = list[dict[str, str]](), list[str]()
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line[:1] == "|" else []
        if not cells:
            heads = []
        elif not heads:
            heads = cells
        elif not set(line) <= set("|-"):
            found.append(dict(zip(heads, cells, strict=True)))
    return found


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_says_what_is_seen_and_what_to_do(reason: Reason) -> None:
    (row,) = [
        row
        for row in table_rows(REFERENCE / "reasons.md")
        if row["reason"] == f"`{reason.value}`" and "what to do" in row
    ]
    assert row["what the user sees"]
    assert row["what to do"]


def test_every_setting_has_a_meaning() -> None:
    rows = [line for line in (REFERENCE / "settings.md").read_text().splitlines() if "| `" in line]
    assert rows
    assert not [row for row in rows if row.endswith("|  |")]


@pytest.mark.parametrize("fact", list(Fact))
def test_every_fact_in_the_logs_is_explained(fact: Fact) -> None:
    assert fact.value in (REFERENCE / "logs.md").read_text()


@pytest.mark.parametrize("event", list(Event))
def test_every_event_is_explained(event: Event) -> None:
    assert f"`{event.value}`" in (REFERENCE / "reasons.md").read_text()


@pytest.mark.parametrize("refusal", list(Refusal))
def test_every_refusal_is_explained(refusal: Refusal) -> None:
    assert f"`{refusal.value}`" in (REFERENCE / "metrics.md").read_text()


@pytest.mark.parametrize(
    ("program", "exposition"),
    [
        ("kmm-cp", kmm_cp.roles.metrics.Metrics(version="1").exposition()),
        ("kmm-daemon", kmm_daemon.metrics.Metrics(version="test").exposition()),
    ],
)
def test_metrics_that_are_listed_are_those_that_are_served(program: str, exposition: bytes) -> None:
    page = (REFERENCE / "metrics.md").read_text()
    section = page.partition(f"## {program}\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE))
    families = text_string_to_metric_families(exposition.decode())
    served = {
        (f"{family.name}_total" if family.type == "counter" else family.name, family.type)
        for family in families
        if not family.name.endswith("_created")
    }
    assert listed == served


def test_texts_of_validation_that_are_listed_are_those_that_are_shown() -> None:
    policies = [
        validation["message"]
        for one in yaml.safe_load_all(ADMISSION.read_text())
        for validation in one["spec"].get("validations", ())
    ]
    shown = {*policies, *(rule["message"] for rule in validations(crd.module()))}
    rows = [row for row in table_rows(REFERENCE / "validation.md") if "text" in row]
    assert {row["text"].strip("`") for row in rows} == shown
    assert all(row["why"] and row["what to do"] for row in rows)


def test_figures_stand_beside_the_promises_about_failure() -> None:
    rows = [row for row in table_rows(PROMISES) if "figure" in row]
    assert rows
    assert not [row for row in rows if not re.search(r"[0-9]", row["figure"])]


@pytest.mark.parametrize("page", [PROMISES, PROMISES.with_name("threat-model.md")])
def test_every_test_behind_a_promise_or_an_answer_exists(page: Path) -> None:
    root = REFERENCE.parents[1]
    text = page.read_text()
    file = None
    named = re.findall(r"`(tests/[\w/]+\.py)?(?:::(test_\w+))?`", text)
    assert any(named)
    for path, test in filter(any, named):
        file = root / path if path else file
        assert file is not None
        assert f"def {test}" in file.read_text()
