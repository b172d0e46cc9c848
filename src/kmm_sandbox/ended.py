"""How a run ended: its exit code, its verdict, and the logs of one that failed."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox import verdict
from kmm_sandbox.lifeline import INTERRUPTED
from kmm_sandbox.progress import Progress


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended."""

    code: int
    """Exit code."""
    verdict: str
    """One line of JSON; only a check says more in it than that there is none."""


def ended(code: int, directory: Path, progress: Progress) -> Ended:
    """Return how the run in a directory ended; keep its logs if it failed, and say where."""
    if code not in (0, INTERRUPTED):
        progress.say(f"logs of the failed run: {keep_logs(directory)}")
    return Ended(code, verdict.line(directory))


def keep_logs(directory: Path) -> Path:
    """Copy the logs of a run to a directory that outlives it; return that."""
    kept = Path(tempfile.mkdtemp(prefix="kmm-sandbox-logs-"))
    # A kubelet has links to logs by the paths that its node has.
    for log in (path for path in directory.rglob("*.log") if not path.is_symlink()):
        target = kept / log.relative_to(directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(log, target)
    return kept
