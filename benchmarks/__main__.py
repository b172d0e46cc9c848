"""python -m benchmarks [--only NAME]: a table, JSON lines; exit 1 if a figure is over its limit."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping

from benchmarks import crowds, encoding, idle, lifecycle, takeover, thresholds
from benchmarks.figures import Figure, table
from kmm_sandbox import machine, namespaces

BENCHMARKS: Mapping[str, Callable[[], list[Figure]]] = {
    "crowds": crowds.run,
    "encoding": encoding.run,
    "idle": idle.run,
    "lifecycle": lifecycle.run,
    "takeover": takeover.run,
}
WITH_NODES = {"idle", "lifecycle"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", choices=sorted(BENCHMARKS), help="run one benchmark")
    options = parser.parse_args()
    chosen = [options.only] if options.only else sorted(BENCHMARKS)
    if WITH_NODES & set(chosen) and os.environ.get(namespaces.MARK) != "1":
        return _inside()
    figures = [figure for name in chosen for figure in BENCHMARKS[name]()]
    print(table(figures), end="\n\n")
    for figure in figures:
        print(figure.as_json())
    told = thresholds.broken(figures, thresholds.read())
    for line in told:
        sys.stderr.write(f"benchmarks: {line}\n")
    return 1 if told else 0


def _inside() -> int:
    """Run again in namespaces of our own, which nodes need."""
    obstacle = machine.obstacle()
    if obstacle:
        sys.stderr.write(f"benchmarks: {obstacle}\n")
        return 1
    command = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
    return subprocess.run(namespaces.leashed_inside(command), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
