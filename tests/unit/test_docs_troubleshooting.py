"""Whatever users can meet, and nothing else, has an entry in the page for trouble."""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest
import yaml
from grpclib.const import Status

from kmm_common.api import names
from kmm_common.api.names import Event, Reason
from kmm_cp.roles.caches import SERVED_LABELS
from kmm_cp.roles.leases import REPLICA_LABELS
from kmm_cp.serving.ports import Refusal
from support.docpages import DOCS, REFERENCE, ROOT, names_in, table_rows

PAGE = DOCS / "how-to/troubleshooting.md"
PROGRAMS = ("kmm_common", "kmm_cp", "kmm_daemon")
_LOUD = ("WARNING", "ERROR")


def entries(column: str) -> Counter[str]:
    """Return how often each name is in the column of that head, with cause and remedy beside it."""
    rows = [row for row in table_rows(PAGE) if column in row]
    assert all(all(row.values()) and row["cause"] and row["what to do"] for row in rows)
    return Counter(name for row in rows for name in names_in(row[column]))


def alerts() -> list[str]:
    """Return the names of the alerts that are shipped."""
    rules = yaml.safe_load((ROOT / "manifests/monitoring/alerts.yaml").read_text())
    return [rule["alert"] for group in rules["spec"]["groups"] for rule in group["rules"]]


@cache
def sources() -> tuple[ast.Module, ...]:
    files = (file for name in PROGRAMS for file in (ROOT / "src" / name).rglob("*.py"))
    return tuple(ast.parse(file.read_text()) for file in files)


def loud_lines() -> set[str]:
    """Return the messages that the programs log as warnings or errors."""
    return {message for tree in sources() for message in _messages(tree)}


def _messages(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Name("log"),
                args=[_, ast.Attribute(attr=level), ast.Constant(str(message))],
            ) if level in _LOUD:
                yield message
            # Where what all lines share is said once, by partial(log, ...).
            case ast.Call(
                func=ast.Name("tell"), args=[ast.Attribute(attr=level), ast.Constant(str(message))]
            ) if level in _LOUD:
                yield message
            # A level that is decided while it runs may be a loud one.
            case ast.Call(func=ast.Name("log"), args=[_, ast.Name(), ast.Constant(str(message))]):
                yield message
            case ast.Call(func=ast.Name("log_crash"), args=[_, ast.Constant(str(message))]):
                yield message
            case ast.Call(
                func=ast.Attribute(attr="error" | "exception" | "warning"),
                args=[ast.Constant(str(message))],
            ):
                yield message


@pytest.mark.parametrize(
    ("column", "there"),
    [
        ("reason", {*Reason, *Refusal}),
        ("event", set(Event)),
        ("alert", set(alerts())),
        ("line", loud_lines()),
    ],
)
def test_each_has_one_entry_and_no_entry_is_of_what_does_not_exist(
    column: str, there: set[str]
) -> None:
    assert there
    assert entries(column) == Counter(map(str, there))


def test_daemons_words_that_are_listed_are_in_what_it_says() -> None:
    texts = [
        node.value
        for tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    rows = [row for row in table_rows(PAGE) if "the daemon says" in row]
    said = [each for row in rows for each in names_in(row["the daemon says"])]
    assert said
    # A status of gRPC stands before what the control plane has said.
    words = [each for each in map(_without_status, said) if each]
    assert [each for each in words if not any(each in text for text in texts)] == []


def _without_status(text: str) -> str:
    status, _, message = text.partition(": ")
    return message if status in Status.__members__ else text


def test_stars_are_at_the_reasons_that_the_reference_has_as_tried_again() -> None:
    told = [row for row in table_rows(REFERENCE / "reasons.md") if "tried again" in row]
    again = {
        name
        for row in told
        if row["tried again"].startswith(("yes", "three times"))
        for name in names_in(row["reason"])
    }
    rows = [row["reason"] for row in table_rows(PAGE) if row.get("reason", "").endswith("*")]
    assert {name for cell in rows for name in names_in(cell)} == again


def test_labels_annotations_and_finalizers_that_are_listed_are_those_in_use() -> None:
    constants = {
        value
        for name, value in vars(names).items()
        if name.endswith(("_LABEL", "_ANNOTATION", "_FINALIZER"))
    }
    made = {
        function("NAMESPACE", "NAME")
        for function in (names.ready_label, names.version_ready_label, names.module_version_label)
    }
    kept = {key for key in (*REPLICA_LABELS, *SERVED_LABELS) if key.startswith(names.LABEL_DOMAIN)}
    rows = table_rows(REFERENCE / "labels.md")
    listed = [name for row in rows for name in names_in(next(iter(row.values())))]
    assert sorted(listed) == sorted(constants | made | kept)


def test_sources_of_lines_are_found() -> None:
    assert {"peer refused", "reconcile failed", "step broke", "link broke"} <= loud_lines()
    assert "serving daemons" not in loud_lines()
