"""How tiers of tests are run and counted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tiers
from kmm_sandbox.errors import SandboxError
from support import rights
from tiers import Outcome


@pytest.mark.parametrize(("tier", "directory"), [("e2e", "e2e"), ("api-oldest", "api")])
def test_every_file_of_a_tier_is_in_one_process(tier: str, directory: str) -> None:
    shards = tiers.dealt(tier, ())
    files = sorted(str(file) for file in (tiers.TESTS / directory).rglob("test_*.py"))
    assert len(shards) == tiers.TIERS[tier].shards > 1
    assert sorted(file for shard in shards for file in shard) == files
    assert all(shards)


def test_what_is_asked_for_runs_in_one_process() -> None:
    assert tiers.dealt("e2e", ("-k", "spine")) == [[str(tiers.TESTS / "e2e"), "-k", "spine"]]
    assert tiers.dealt("unit", ()) == [[str(tiers.TESTS / "unit")]]


def test_nightly_tests_are_chosen_among_those_of_other_tiers() -> None:
    places = [str(tiers.TESTS / name) for name in ("api", "fault", "images")]
    assert tiers.dealt("nightly", ("-k", "x")) == [[*places, "-m", "nightly", "-k", "x"]]


def test_whole_api_tier_runs_against_the_oldest_release_and_says_so() -> None:
    assert tiers.dealt("api-oldest", ("-x",)) == [[str(tiers.TESTS / "api"), "-x"]]
    program = [sys.executable, "-c", "from support.cluster import release; print(release().name)"]
    printed = subprocess.run(
        tiers.TIERS["api-oldest"].wrap(program),
        cwd=tiers.TESTS,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed == "OLDEST\n"


def test_processes_are_counted_together_and_one_that_fails_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, test in (("a", "assert True"), ("b", "assert False"), ("c", "assert True")):
        path = tmp_path / f"test_{name}.py"
        path.write_text(f"def test_{name}():\n    {test}\n")
    monkeypatch.setattr(tiers, "TESTS", tmp_path.parent)
    monkeypatch.setitem(tiers.TIERS, tmp_path.name, tiers.Tier(shards=2))
    outcome = tiers.run(tmp_path.name, [])
    (why,) = outcome.failures
    assert why.endswith(".test_b::test_b: assert False")
    assert outcome == Outcome(tier=tmp_path.name, passed=2, failed=1, exit_code=1, failures=(why,))
    assert f"  FAILED {why}\n2 passed, 1 failed" in tiers.summary([outcome])
    printed = capfd.readouterr().out
    assert "1| " in printed
    assert "2| " in printed


def test_last_lines_of_why_a_test_failed_are_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = "\\n".join(f"line {number}" for number in range(tiers.LAST_LINES + 3))
    failing = f'def test_it():\n    raise OSError("it ended; its log ends:\\n{log}\\n")\n'
    (tmp_path / "test_a.py").write_text(failing)
    monkeypatch.setattr(tiers, "TESTS", tmp_path.parent)
    monkeypatch.setitem(tiers.TIERS, tmp_path.name, tiers.Tier())
    (told,) = tiers.run(tmp_path.name, []).failures
    first, *last = told.splitlines()
    assert first.endswith("::test_it: OSError: it ended; its log ends:")
    assert last[-1] == f"    line {tiers.LAST_LINES + 2}"
    assert "    line 0" not in last


def test_process_that_writes_no_report_fails_its_tier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / f"test_{name}.py").write_text("def test_it():\n    pass\n")
    died = tiers.Tier(shards=2, wrap=lambda _: [sys.executable, "-c", "raise SystemExit(3)"])
    monkeypatch.setattr(tiers, "TESTS", tmp_path.parent)
    monkeypatch.setitem(tiers.TIERS, tmp_path.name, died)
    assert tiers.run(tmp_path.name, []).exit_code == 3


def test_tier_for_which_something_cannot_be_had_fails_and_says_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare() -> None:
        raise SandboxError("no compiler")

    monkeypatch.setitem(tiers.TIERS, tmp_path.name, tiers.Tier(prepare=prepare))
    outcome = tiers.run(tmp_path.name, [])
    assert outcome == Outcome(tier=tmp_path.name, exit_code=1, blocked="no compiler")
    assert tiers.verdict([outcome], strict=False) == 1


def test_rights_are_judged_by_a_whole_run_only_where_they_were_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used = {str(right): 1 for right in rights.rights()[1:]}
    left = {"used": used, "beyond": {}, "refused": {"get secrets a/b": 2}}
    (tmp_path / "one.json").write_text(json.dumps(left))
    refused = "forbidden, and no test meant it: get secrets a/b (2)"
    unused = f"never used, take it out: {rights.rights()[0]}"
    assert tiers.wrong_rights(tmp_path, whole=False) == [refused]
    assert tiers.wrong_rights(tmp_path, whole=True) == [unused, refused]
    assert unused in capsys.readouterr().out


def test_a_run_without_a_cluster_says_nothing_of_rights(tmp_path: Path) -> None:
    assert tiers.wrong_rights(tmp_path, whole=True) == []
