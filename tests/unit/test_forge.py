"""What a public forge reads: workflows run what is there, forms ask for what can be had."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmm_sandbox.cache import cache_directory
from kmm_sandbox.gobuild import GOMODULES
from support.doccommands import Command, kubectl_problem
from support.docpages import ROOT, resources

FORGE = ROOT / ".github"
WORKFLOWS = sorted((FORGE / "workflows").glob("*.yaml"))
FORMS = sorted((FORGE / "ISSUE_TEMPLATE").glob("*.yaml"))
ON = True
"""What YAML 1.1, as PyYAML reads it, makes of the key `on`."""
CI_MINUTES = 90


def read(path: Path) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load(path.read_text())
    return content


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in read(workflow)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs_what_is_there_with_no_right_but_to_read(workflow: Path) -> None:
    assert read(workflow)["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [step["run"].split() for step in steps(workflow) if "run" in step]
    assert commands
    for program, argument in commands:
        there = argument in targets if program == "make" else (ROOT / argument).is_file()
        assert there, argument


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_keeps_what_was_compiled_by_what_it_is_compiled_of(
    workflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", read(workflow)["env"]["XDG_CACHE_HOME"])
    (cache,) = [step["with"] for step in steps(workflow) if "cache" in step.get("uses", "")]
    assert Path(cache["path"]) == cache_directory()
    patterns = re.findall(r"'([^']+)'", cache["key"])
    files = {file for pattern in patterns for file in ROOT.glob(pattern) if file.is_file()}
    assert {*GOMODULES.rglob("go.mod"), *(ROOT / "tests/support").rglob("go.mod")} <= files


def test_changes_are_tested_within_the_time_that_ci_has_and_nights_are_by_the_clock() -> None:
    ci, nightly = (read(FORGE / f"workflows/{name}.yaml") for name in ("ci", "nightly"))
    assert "pull_request" in ci[ON]
    assert [job["timeout-minutes"] for job in ci["jobs"].values()] == [CI_MINUTES]
    assert list(nightly[ON]["schedule"][0]) == ["cron"]
    assert nightly["env"]["CI"] == "true"


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_form_names_each_of_its_fields_once(form: Path) -> None:
    fields = [part for part in read(form)["body"] if part["type"] != "markdown"]
    names = [part["id"] for part in fields]
    assert names
    assert len(set(names)) == len(names)
    assert all(part["attributes"]["label"] for part in fields)


def test_form_for_bugs_asks_by_commands_that_kubectl_takes() -> None:
    text = (FORGE / "ISSUE_TEMPLATE/bug.yaml").read_text()
    found = re.findall(r"(?:label: |description: |^ +)(kubectl (?!kmm)[^:\n]*[^:\n ])", text, re.M)
    assert len(found) >= 3
    for line in found:
        command = Command(page=FORGE, words=tuple(line.split()))
        assert kubectl_problem(command, resources()) == ""


def test_hooks_before_a_commit_are_what_make_check_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    target = makefile.partition("\ncheck:")[2].partition("\n\n")[0]
    checks = {line.removeprefix("\t$(BIN)/") for line in target.splitlines()[1:]}
    (hooks,) = (repo["hooks"] for repo in read(ROOT / ".pre-commit-config.yaml")["repos"])
    entries = {hook["entry"].removeprefix(".venv/bin/") for hook in hooks}
    # A hook gets the names of the files, and mends what it finds.
    mended = {"ruff format --check .": "ruff format", "ruff check .": "ruff check --fix"}
    assert entries == {mended.get(check, check) for check in checks}
