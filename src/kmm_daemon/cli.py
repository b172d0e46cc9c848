"""kmm-daemon: the daemon's command line."""

import asyncio
import sys
from collections.abc import Sequence

from kmm_common.program import run_program
from kmm_daemon import app, settings
from kmm_daemon.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; exit code 2 for wrong settings, 1 for any other refusal to start."""
    return run_program(
        "kmm-daemon", "KMM's daemon of one node", load=settings.load, run=_run, arguments=arguments
    )


def _run(chosen: Settings) -> None:
    asyncio.run(app.run(chosen))


if __name__ == "__main__":
    sys.exit(main())
