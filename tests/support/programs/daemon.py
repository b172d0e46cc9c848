"""kmm-daemon whose /proc and /sys are those below its first argument, a directory.

A machine that runs the tests may have a kernel without modules; one that has them keeps its own.
"""

import sys
from functools import partial
from pathlib import Path

from kmm_daemon import app, cli
from kmm_daemon.kernel.modprobe import KernelPlaces

app.KernelPlaces = partial(KernelPlaces, root=Path(sys.argv.pop(1)))  # type: ignore[misc, assignment]
sys.exit(cli.main())
