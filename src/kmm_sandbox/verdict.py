"""The verdict of `make sandbox-check`: left by the inner half, printed last by the outer one."""

import json
from collections.abc import Mapping
from pathlib import Path

from kmm_sandbox import errors

FILE = "verdict.json"
"""Its name in the sandbox's directory."""
TOLD_CHARACTERS = 2000


def leave(directory: Path, verdict: Mapping[str, object]) -> None:
    """Leave the verdict for the outer half; the first one stays."""
    path = directory / FILE
    if not path.exists():
        # Whoever leaves it may be killed meanwhile: half a verdict is none.
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(verdict))
        partial.replace(path)


def failure(message: str) -> dict[str, object]:
    """Return the verdict on a run that did not get to its steps."""
    return {"ok": False, "error": message}


def line(directory: Path) -> str:
    """Return the verdict as one line of JSON, also for a run that was killed before it left one."""
    path = directory / FILE
    if path.exists():
        return path.read_text()
    return json.dumps(failure("the sandbox ended without a verdict"))


def told(error: BaseException) -> str:
    """Return what a step failed with; an interruption may come as what it broke on its way."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return "interrupted"
        cause = cause.__cause__ or cause.__context__
    return errors.told(error)[:TOLD_CHARACTERS]
