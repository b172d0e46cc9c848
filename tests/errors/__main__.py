"""python -m errors [--into DIRECTORY]: provoke every error on a node, write down what it says."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from errors.collected import COLLECTED, write_all
from errors.node import collect
from kmm_common.errors import KmmError
from kmm_sandbox import machine, namespaces
from kmm_sandbox.progress import Progress

INSIDE = "--inside"


def main() -> int:
    parser = argparse.ArgumentParser(prog="errors", description=__doc__)
    parser.add_argument("--into", type=Path, default=COLLECTED)
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        return _inside(options.into) if options.inside else _outside(options.into)
    except KmmError as error:
        sys.stderr.write(f"errors: {error}\n")
        return 1


def _outside(into: Path) -> int:
    """Prepare the machine and run the same again in namespaces of its own."""
    machine.prepare(Progress())
    inner = [sys.executable, "-m", "errors", INSIDE, "--into", str(into)]
    return subprocess.run(namespaces.leashed_inside(inner)).returncode


def _inside(into: Path) -> int:
    namespaces.require_inside()
    with tempfile.TemporaryDirectory(prefix="kmm-errors-") as directory:
        errors = collect(Path(directory))
    write_all(errors, into)
    print(f"{len(errors)} errors are in {into}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
