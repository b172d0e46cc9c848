"""kmm-cp: the control plane's command line."""

import asyncio
import sys
from collections.abc import Sequence

from kmm_common.program import run_program
from kmm_common.reload import SettingsFile
from kmm_cp import settings
from kmm_cp.roles import standalone
from kmm_cp.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the control plane; exit code 2 for wrong settings, 1 for any other refusal to start."""
    return run_program(
        "kmm-cp", "KMM's control plane", load=settings.load, run=_run, arguments=arguments
    )


def _run(file: SettingsFile[Settings]) -> None:
    """Run on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(standalone.run(file))
    else:
        uvloop.run(standalone.run(file))


if __name__ == "__main__":
    sys.exit(main())
