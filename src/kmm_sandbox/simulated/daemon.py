"""kmm-daemon on the simulated kernel below its first argument, a directory."""

import sys
from pathlib import Path

from kmm_daemon import app, cli
from kmm_sandbox.simulated.kernel import PROGRAMS, FileKernel


def main() -> int:
    """Run it as its own command line does, but for the machine below it."""
    root = Path(sys.argv[1])
    machine = app.Machine(
        root=root,
        runner=FileKernel.found(root),
        programs=lambda: PROGRAMS,
        # A root's Python may be where no other user gets to.
        image_user=False,
    )
    return cli.main(sys.argv[2:], machine=machine)


if __name__ == "__main__":
    sys.exit(main())
