"""kmm-daemon: the daemon's command line."""

import asyncio
import sys
from collections.abc import Sequence
from functools import partial

from kmm_common.clock import SystemClock
from kmm_common.program import run_program
from kmm_common.reload import SettingsFile
from kmm_daemon import app, settings
from kmm_daemon.settings import Settings
from kmm_daemon.turns import TimedSelector

DESCRIPTION = "KMM's daemon of one node; `kmm-daemon status` tells what it knows"


def main(arguments: Sequence[str] | None = None, *, machine: app.Machine = app.THIS) -> int:
    """Run the daemon; exit code 2 for wrong settings, 1 for any other refusal to start."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["status"]:
        name, description, run = "kmm-daemon status", "What the node knows of its Modules", _tell
        words = words[1:]
    else:
        name, description, run = "kmm-daemon", DESCRIPTION, partial(_run, machine)
    return run_program(name, description, load=settings.load, run=run, arguments=words)


def _run(machine: app.Machine, file: SettingsFile[Settings]) -> None:
    selector = TimedSelector(clock=SystemClock())
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(app.run(file, selector, machine))


def _tell(file: SettingsFile[Settings]) -> None:
    # Here, since a daemon that runs has no use for it.
    from kmm_daemon import status

    sys.stdout.write(f"{status.as_text(asyncio.run(status.look(file.current)))}\n")


if __name__ == "__main__":
    sys.exit(main())
