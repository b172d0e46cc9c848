"""python -m errors [--into DIRECTORY]: provoke every error on a node, write down what it says."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from errors.collected import COLLECTED, write_all
from errors.node import collect
from kmm_sandbox import machine, namespaces, xstate
from kmm_sandbox.binaries import cache_directory
from kmm_sandbox.progress import Progress

INSIDE = "--inside"


def command(into: Path) -> list[str]:
    """Return the command line that collects into a directory, in namespaces of its own."""
    inner = [sys.executable, "-m", "errors", INSIDE, "--into", str(into)]
    return namespaces.leashed_inside(inner)


def main() -> int:
    parser = argparse.ArgumentParser(prog="errors", description=__doc__)
    parser.add_argument("--into", type=Path, default=COLLECTED)
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        progress = Progress()
        machine.prepare(progress)
        xstate.preload(cache_directory())
        return subprocess.run(command(options.into.resolve())).returncode
    namespaces.require_inside()
    with tempfile.TemporaryDirectory(prefix="kmm-errors-") as directory:
        errors = collect(Path(directory))
    write_all(errors, options.into)
    print(f"{len(errors)} errors are in {options.into}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
