"""What is asked of the fuzzer."""

import sys

import pytest

from fuzz.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seconds", "0"], "SECONDS=0: give at least 1"),
        (["--seconds=-1"], "SECONDS=-1: give at least 1"),
        (["everything"], "no target everything: there are wire, "),
    ],
)
def test_what_would_never_end_or_is_unknown_is_refused(
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert told in capsys.readouterr().err
