"""Run tiers of tests and say, at the end, how many ran in each and what could not run, and why.

A run with the whole api tier also holds every request of kmm-cp against the rights that it has.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kmm_common.errors import KmmError
from kmm_sandbox import machine, namespaces
from kmm_sandbox.binaries import KubernetesRelease, find_binaries
from kmm_sandbox.cluster import cgroups, outer
from kmm_sandbox.progress import Progress
from support import cluster, rights
from support.onkubelets import KUBELETS

TESTS = Path(__file__).resolve().parent
LIMIT_SECONDS = 4000
NIGHTLY_SECONDS = 3 * 3600
SPINE = ("e2e/test_spine.py", "e2e/test_in_tree.py")
"""Also run on real kubelets."""
WHY_LENGTH = 300
"""Characters of a line that says why a test failed."""
LAST_LINES = 8
"""Of such a text, beside the first: a program that ended has said there what it could not do."""
TEST_SECONDS = 1500
"""For a test on real kubelets: the first one waits for the whole cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a tier ended with; `blocked` says why it could not run here."""

    tier: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    exit_code: int = 0
    blocked: str = ""
    failures: tuple[str, ...] = ()
    """Each test that failed, with the first line of why and the last ones, if there are more."""


def nothing_needed() -> str:
    """Say that nothing is needed."""
    return ""


def root_needed() -> str:
    """Say what keeps images from being built here."""
    return "" if os.geteuid() == 0 else "images are made of files of root's: run it as root"


def nothing_to_prepare() -> None:
    """Do nothing."""


def cluster_obstacle() -> str:
    """Say what keeps nodes with a kubelet from running here."""
    return machine.obstacle() or cgroups.obstacle()


def prepare_kubernetes() -> None:
    """Have Kubernetes' programs: to compile them takes longer than a test may."""
    find_binaries(Progress())


def prepare_oldest() -> None:
    """Have the programs of the oldest release, which no other tier needs."""
    find_binaries(Progress(), KubernetesRelease.OLDEST)


def prepare_nodes() -> None:
    """Have everything here that nodes need, while there is a network to get it."""
    machine.prepare(Progress())
    prepare_kubernetes()


def prepare_cluster() -> None:
    """Have also what nodes with a kubelet need."""
    prepare_nodes()
    outer.prepare(Progress())
    outer.build_images()


def on_oldest(command: Sequence[str]) -> list[str]:
    """Return the command that runs tests against the oldest release of Kubernetes."""
    return ["env", f"{cluster.RELEASE}={KubernetesRelease.OLDEST.name}", *command]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """What keeps a tier from running here (empty: nothing), and how its pytest is started."""

    obstacle: Callable[[], str] = nothing_needed
    wrap: Callable[[Sequence[str]], list[str]] = list
    directories: tuple[str, ...] = ()
    """Where its tests are, if not in the one of its name."""
    select: tuple[str, ...] = ()
    """Arguments of pytest's that choose among them."""
    limit: float = LIMIT_SECONDS
    prepare: Callable[[], None] = nothing_to_prepare
    """Done before it starts, outside of what it is wrapped in."""
    shards: int = 1
    """Into how many processes its files are dealt when all of them run."""


TIERS = {
    "unit": Tier(),
    "api": Tier(prepare=prepare_kubernetes, shards=2),
    "fault": Tier(prepare=prepare_kubernetes),
    "images": Tier(obstacle=root_needed),
    "e2e": Tier(
        obstacle=machine.obstacle,
        prepare=prepare_nodes,
        wrap=namespaces.leashed_inside,
        shards=2,
    ),
    "nightly": Tier(
        prepare=prepare_kubernetes,
        directories=("api", "fault", "images"),
        select=("-m", "nightly"),
        limit=NIGHTLY_SECONDS,
    ),
    "api-oldest": Tier(
        directories=("api",),
        wrap=on_oldest,
        prepare=prepare_oldest,
        limit=NIGHTLY_SECONDS,
        shards=2,
    ),
    "install": Tier(
        obstacle=cluster_obstacle,
        prepare=prepare_cluster,
        wrap=namespaces.leashed_inside,
        directories=("install", *SPINE),
        select=(
            KUBELETS,
            "-m",
            "(nightly or spine) and not own_nodes",
            f"--timeout={TEST_SECONDS}",
        ),
        limit=NIGHTLY_SECONDS,
    ),
}

WHOLE_API = frozenset({"api", "api-oldest"})
"""Tiers that use every right of kmm-cp."""


def run(tier: str, extra: list[str]) -> Outcome:
    """Run one tier under pytest and read its counts from the JUnit file."""
    blocked = TIERS[tier].obstacle()
    if blocked:
        return Outcome(tier=tier, blocked=blocked)
    print(f"==> {tier}", flush=True)
    try:
        TIERS[tier].prepare()
    except KmmError as error:
        return Outcome(tier=tier, exit_code=1, blocked=str(error))
    with tempfile.TemporaryDirectory() as scratch:
        shards = dealt(tier, extra)
        reports = [Path(scratch) / f"{number}.xml" for number in range(len(shards))]
        commands = [
            TIERS[tier].wrap([sys.executable, "-m", "pytest", *shard, f"--junitxml={report}"])
            for shard, report in zip(shards, reports, strict=True)
        ]
        limit = TIERS[tier].limit
        codes = (
            [_exit_code(commands[0], limit)]
            if len(commands) == 1
            else _side_by_side(commands, limit)
        )
        return together([counted(tier, *each) for each in zip(codes, reports, strict=True)])


def dealt(tier: str, extra: Sequence[str]) -> list[list[str]]:
    """Return pytest's arguments for each process; one process if only some tests were asked for."""
    known = TIERS[tier]
    places = [TESTS / directory for directory in known.directories or (tier,)]
    if extra or known.shards == 1:
        return [[*map(str, places), *known.select, *extra]]
    files = [str(file) for place in places for file in sorted(place.rglob("test_*.py"))]
    return [[*files[number :: known.shards], *known.select] for number in range(known.shards)]


def _exit_code(command: Sequence[str], limit: float) -> int:
    try:
        return subprocess.run(command, cwd=TESTS.parent, timeout=limit).returncode
    except subprocess.TimeoutExpired:
        print(f"given up after {limit:.0f} s", flush=True)
        return 1


def _side_by_side(commands: Sequence[Sequence[str]], limit: float) -> list[int]:
    """Run all at once, with a number before each line that they print; return the exit codes."""
    with ExitStack() as stack:
        # By this thread: what is leashed ends with the thread that started it.
        running = [
            stack.enter_context(
                subprocess.Popen(
                    command,
                    cwd=TESTS.parent,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                )
            )
            for command in commands
        ]
        for number, each in enumerate(running, start=1):
            assert each.stdout is not None
            threading.Thread(target=_pass_on, args=(number, each.stdout), daemon=True).start()
        return [_ended(each, limit) for each in running]


def _pass_on(number: int, lines: IO[str]) -> None:
    for line in lines:
        print(f"{number}| {line}", end="", flush=True)


def _ended(process: "subprocess.Popen[str]", limit: float) -> int:
    try:
        return process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        print(f"given up after {limit:.0f} s", flush=True)
        process.kill()
        return 1


def together(parts: Sequence[Outcome]) -> Outcome:
    """Return the counts of all parts of a tier; its exit code is the first that is not 0."""
    return Outcome(
        tier=parts[0].tier,
        passed=sum(part.passed for part in parts),
        failed=sum(part.failed for part in parts),
        skipped=sum(part.skipped for part in parts),
        exit_code=next((part.exit_code for part in parts if part.exit_code), 0),
        failures=tuple(each for part in parts for each in part.failures),
    )


def counted(tier: str, code: int, junit: Path) -> Outcome:
    """Return the counts that pytest wrote; a run without a file counts nothing and failed."""
    if not junit.exists():
        return Outcome(tier=tier, exit_code=code or 1)
    suite = ElementTree.parse(junit).getroot().find("testsuite")
    assert suite is not None
    number = {key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")}
    failed = number["failures"] + number["errors"]
    return Outcome(
        tier=tier,
        passed=number["tests"] - failed - number["skipped"],
        failed=failed,
        skipped=number["skipped"],
        exit_code=code,
        failures=tuple(failures(suite)),
    )


def failures(suite: ElementTree.Element) -> Iterator[str]:
    """Yield each test of a JUnit suite that failed, and why: the first line and the last ones."""
    for case in suite.iter("testcase"):
        for found in (*case.findall("failure"), *case.findall("error")):
            first, *more = (line[:WHY_LENGTH] for line in found.get("message", "").split("\n"))
            told = "".join(f"\n    {line}" for line in more[-LAST_LINES:] if line.strip())
            yield f"{case.get('classname')}::{case.get('name')}: {first}{told}"


def verdict(outcomes: list[Outcome], *, strict: bool) -> int:
    """Return the exit code: a tier that ran nothing, failed, or (strict) could not run fails."""
    bad = [o for o in outcomes if o.exit_code or (strict and o.blocked)]
    return 1 if bad else 0


def summary(outcomes: list[Outcome]) -> str:
    """Return the table of tiers and the closing line with all counts."""
    rows = [
        f"  {o.tier:<10} not run: {o.blocked}"
        if o.blocked
        else f"  {o.tier:<10} {o.passed} passed, {o.failed} failed, {o.skipped} skipped"
        for o in outcomes
    ]
    rows += [f"  FAILED {each}" for outcome in outcomes for each in outcome.failures]
    passed, failed = sum(o.passed for o in outcomes), sum(o.failed for o in outcomes)
    skipped = sum(o.skipped for o in outcomes)
    total = f"{passed} passed, {failed} failed, {skipped} skipped"
    return "\n".join(["Tests per tier:", *rows, total])


def wrong_rights(directory: Path, *, whole: bool) -> list[str]:
    """Print how each right of kmm-cp was used; return what is wrong with them.

    That one was never used says something of a `whole` run only.
    """
    use, shipped = rights.collected(directory), rights.rights()
    if not use.used:
        return []
    print(rights.table(use, shipped), flush=True)
    found = rights.problems(use, shipped if whole else ())
    if found:
        print("\n".join(["What is wrong with the rights:", *found]), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tiers", nargs="+", choices=sorted(TIERS))
    arguments, extra = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as directory:
        os.environ[rights.COLLECTED] = directory
        outcomes = [run(tier, extra) for tier in arguments.tiers]
        whole = not extra and not WHOLE_API.isdisjoint(arguments.tiers)
        wrong = wrong_rights(Path(directory), whole=whole)
    print(summary(outcomes), flush=True)
    return verdict(outcomes, strict=os.environ.get("CI") == "true") or int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
