"""python -m fuzz [--seconds N] [TARGET ...]: fuzz, then say how much of each parser was reached.

Two targets run side by side. Exit code 1, with the input kept, if one broke its promise.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fuzz.reached import Reached, reached
from fuzz.targets import TARGETS

FOUND = Path(__file__).with_name("found")
SIDE_BY_SIDE = 2
_RUNS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one target."""

    target: str
    runs: int
    reached: Reached
    found: tuple[Path, ...]
    last_lines: str


def fuzz(target: str, seconds: int) -> Outcome:
    """Fuzz a target in a process of its own; replay all inputs for the branches they reach."""
    kept = FOUND / target
    kept.mkdir(parents=True, exist_ok=True)
    before = set(kept.iterdir())
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "fuzz.one", target, str(seconds), scratch, str(kept)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 300)
        inputs = [path.read_bytes() for path in sorted(Path(scratch).iterdir())]
        branches = reached(target, inputs)
    told = done.stdout + done.stderr
    runs = _RUNS.search(told)
    found = tuple(sorted(set(kept.iterdir()) - before))
    return Outcome(
        target=target,
        runs=int(runs[1]) if runs else 0,
        reached=branches,
        found=found,
        last_lines=told[-3000:] if found or done.returncode or not runs else "",
    )


def row(outcome: Outcome) -> str:
    """Return one line of the table."""
    branches = outcome.reached
    return (
        f"  {outcome.target:<16} {outcome.runs:>9} runs   branches {branches.taken} of"
        f" {branches.all} ({branches.percent} %)   {len(outcome.found)} found"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    options = parser.parse_args()
    if options.seconds < 1:
        # The fuzzer takes them for "without end".
        parser.error(f"SECONDS={options.seconds}: give at least 1")
    if unknown := sorted(set(options.targets) - set(TARGETS)):
        parser.error(f"no target {unknown[0]}: there are {', '.join(TARGETS)}")
    chosen = options.targets or list(TARGETS)
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        outcomes = list(pool.map(lambda target: fuzz(target, options.seconds), chosen))
    bad = [outcome for outcome in outcomes if outcome.last_lines]
    for outcome in bad:
        print(f"==> {outcome.target}\n{outcome.last_lines}")
        for path in outcome.found:
            print(f"kept: {path}; add it to tests/fuzz/corpus/{outcome.target}/ with the fix")
    print("Fuzzing, and the branches of each parser that its inputs reach:")
    print("\n".join(map(row, outcomes)), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
