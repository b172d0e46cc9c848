"""How the end of a run is told."""

import errno
import io
import subprocess
from pathlib import Path

import pytest

from kmm_sandbox import verdict
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.lifeline import INTERRUPTED
from kmm_sandbox.modes import attempt
from kmm_sandbox.progress import Progress


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SandboxError("no kernel"), "no kernel"),
        (OSError(errno.ENOSPC, "No space left on device", "/a"), "make room, or name another"),
        (subprocess.TimeoutExpired("mkfs", 60), "timed out after 60 seconds"),
    ],
)
def test_failure_is_told_in_words_and_left_as_the_verdict(
    error: Exception, words: str, tmp_path: Path
) -> None:
    def run() -> int:
        raise error

    said = io.StringIO()
    assert attempt(tmp_path, Progress(stream=said), run) == 1
    assert words in said.getvalue()
    assert words in verdict.line(tmp_path)


def test_interruption_is_no_failure(tmp_path: Path) -> None:
    def run() -> int:
        raise KeyboardInterrupt

    said = io.StringIO()
    assert attempt(tmp_path, Progress(stream=said), run) == INTERRUPTED
    assert said.getvalue() == ""
    assert "interrupted" in verdict.line(tmp_path)


def test_what_a_check_has_left_stays_the_verdict(tmp_path: Path) -> None:
    def run() -> int:
        verdict.leave(tmp_path, {"ok": True})
        raise OSError("the end was not whole")

    attempt(tmp_path, Progress(quiet=True), run)
    assert verdict.line(tmp_path) == '{"ok": true}'
