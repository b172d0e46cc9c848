"""What is said of a call that names no kind of nodes, or no number of them."""

import json
import sys

import pytest

from kmm_sandbox.__main__ import how_many, main
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.network import MAX_NODES


def test_number_of_nodes_is_what_is_asked_for_or_that_of_the_kind() -> None:
    assert (how_many(None, 3), how_many("1", 3), how_many(str(MAX_NODES), 3)) == (3, 1, MAX_NODES)


@pytest.mark.parametrize("asked", ["", "0", "-1", "x", "1.5", str(MAX_NODES + 1)])
def test_number_of_nodes_that_cannot_be_is_refused_by_name(asked: str) -> None:
    with pytest.raises(SandboxError, match=f"COUNT={asked} is no whole number from 1 to"):
        how_many(asked, 3)


def test_check_that_cannot_begin_ends_with_a_verdict_all_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["kmm_sandbox", "check", "--nodes", "absent"])
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    assert main() == 1
    said = capsys.readouterr()
    verdict = json.loads(said.out.splitlines()[-1])
    assert verdict["ok"] is False
    assert verdict["error"].startswith("NODES=absent is no kind of nodes")
    assert said.err.startswith("sandbox: NODES=absent")
