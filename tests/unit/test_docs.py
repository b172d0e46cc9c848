"""The reference names everything that users can meet."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import kmm_cp.roles.metrics
import kmm_daemon.metrics
from kmm_common import tls
from kmm_common.api import crd
from kmm_common.api.names import Condition, Event, Reason
from kmm_common.desired import MESSAGE_BYTES
from kmm_common.logs import Fact
from kmm_common.wire import convert, http2, versions
from kmm_cp.serving import crowd, listener, service
from kmm_cp.serving.ports import Refusal
from kmm_cp.serving.sender import Sender
from support.brokenmodules import validations
from support.docpages import REFERENCE, names_in, table_rows

CONDITIONS = REFERENCE / "conditions-and-events.md"
ADMISSION = REFERENCE.parents[1] / "manifests/base/admission.yaml"
PROTOCOL = REFERENCE.parent / "explanation/protocol.md"
PROMISES = REFERENCE.parent / "explanation/promises.md"


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_says_what_it_is_of_a_node_or_of_a_module(reason: Reason) -> None:
    rows = [*table_rows(REFERENCE / "reasons.md"), *table_rows(CONDITIONS)]
    found = [row for row in rows if row.get("reason") == f"`{reason.value}`" and "type" not in row]
    assert found
    assert all(all(row.values()) for row in found)


def test_every_condition_says_when_it_is_there_and_what_it_says() -> None:
    rows = [row for row in table_rows(CONDITIONS) if "is there" in row]
    assert {row["condition"].strip("`") for row in rows} == set(Condition)
    assert all(all(row.values()) for row in rows)


def test_every_condition_is_one_of_a_module() -> None:
    text = CONDITIONS.read_text().partition("## Conditions of a NodeModulesState")[0]
    assert [each for each in Condition if f"\n| `{each}` | True" not in text] == []


def test_every_setting_has_a_meaning() -> None:
    rows = [line for line in (REFERENCE / "settings.md").read_text().splitlines() if "| `" in line]
    assert rows
    assert not [row for row in rows if row.endswith("|  |")]


@pytest.mark.parametrize("fact", list(Fact))
def test_every_fact_in_the_logs_is_explained(fact: Fact) -> None:
    assert fact.value in (REFERENCE / "logs.md").read_text()


def test_events_that_are_listed_are_those_that_are_made() -> None:
    rows = [row for row in table_rows(CONDITIONS) if "type" in row]
    assert {name for row in rows for name in names_in(row["reason"])} == set(Event)
    assert all(all(row.values()) for row in rows)


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


def test_bounds_of_the_protocol_are_those_of_the_code() -> None:
    limits = service.Limits()
    sending = {field.name: field.default for field in fields(Sender)}
    bounds = {
        "a message": f"{http2.MESSAGE_BYTES // 2**20} MiB",
        "sent ahead of what was read": f"{http2.WINDOW_BYTES // 2**10} KiB",
        "calls at once on a connection": f"{http2.CONCURRENT_STREAMS}",
        "new calls": f"{http2.STREAMS_AT_ONCE:g} at once, {http2.STREAMS_PER_SECOND:g} a second",
        "reports": f"{limits.reports_burst:g} at once, {limits.reports_per_second:g} a second",
        "connections of a daemon's Pod": f"{crowd.CONNECTIONS_PER_POD}",
        "connections of a host without TLS yet": f"{crowd.HANDSHAKES_PER_HOST}",
        "TLS handshake": f"{tls.HANDSHAKE_SECONDS:g} s",
        "the first message of a call": f"{limits.first_message:g} s",
        "an update that is not taken": f"{sending['send_seconds']:g} s",
        "an answer to `PullCredentials`": f"{limits.credentials:g} s",
        "a session": f"{limits.age / 3600:g} hours",
        "a silent connection": f"pinged every {listener.KEEPALIVE_SECONDS:g} s",
        "texts of a report": f"{convert.TEXT_LENGTH} characters; a message {MESSAGE_BYTES} bytes",
    }
    rows = {row["what"]: row["bound"] for row in table_rows(PROTOCOL) if "bound" in row}
    assert rows.keys() - bounds.keys() == {"a session's certificate"}
    assert {what: bound for what, bound in bounds.items() if bound not in rows[what]} == {}
    assert f"speaks {versions.spoken()}." in PROTOCOL.read_text()
