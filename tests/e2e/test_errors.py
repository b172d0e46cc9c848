"""The kernel and modprobe still say what the classifier is tested with."""

import subprocess
import sys
from pathlib import Path

from errors.collected import COLLECTED, REMEDY, difference

TESTS = Path(__file__).parents[1]


def test_errors_are_what_they_were_when_they_were_collected(tmp_path: Path) -> None:
    """On a node of its own: one of the errors is that nothing can be loaded until a reboot."""
    command = [sys.executable, "-m", "errors", "--into", str(tmp_path)]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = difference(COLLECTED, tmp_path)
    assert not found, f"{found}\nif that is what they say now: {REMEDY}, then make unit"
