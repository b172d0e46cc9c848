"""What a sandbox is started for, and how its end is told, whichever kind its nodes are."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from kmm_sandbox import check, demo, verdict
from kmm_sandbox.demo import Words
from kmm_sandbox.errors import FAILURES, told
from kmm_sandbox.lifeline import INTERRUPTED
from kmm_sandbox.progress import Progress
from kmm_sandbox.running import Operations, Running

UP, CHECK = "up", "check"
"""To be looked at until it is interrupted; or to be gone through, with a verdict."""
MODES = (UP, CHECK)


def act(
    mode: str,
    sandbox: Running,
    operations: Operations,
    progress: Progress,
    words: Words,
    *,
    api_port: Callable[[], int],
) -> int:
    """Do what the mode is; return the exit code. Raises SandboxError.

    `api_port` is called where the API server is to be reached from outside of the sandbox, and
    returns the port of 127.0.0.1 there.
    """
    if mode == CHECK:
        return check.run(sandbox, operations, progress)
    return demo.run(sandbox, progress, words, port=api_port())


def attempt(directory: Path, progress: Progress, run: Callable[[], int]) -> int:
    """Run something whole; say what it failed with, and leave that as the verdict.

    Returns the exit code: its own, 1, or INTERRUPTED.
    """
    try:
        return run()
    except FAILURES as error:
        # There may be no terminal any more, or no room.
        with contextlib.suppress(OSError):
            progress.say(f"failed: {told(error)}")
        with contextlib.suppress(OSError):
            verdict.leave(directory, verdict.failure(verdict.told(error)))
        return 1
    except KeyboardInterrupt:
        verdict.leave(directory, verdict.failure("interrupted"))
        return INTERRUPTED
