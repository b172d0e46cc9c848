"""`make sandbox` and `make sandbox-check` end whole, whoever ends them and whatever breaks."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kmm_sandbox.processes import wait_until
from support.sandboxrun import SECONDS, Run, command, environment, pids

UP = "The cluster is up."
STARTING = "Kubernetes, registry and 1 kernels ..."
STEPPING = "load ..."
ENDING = "Ctrl-C again"
KINDS = ("pid", "net", "mnt")


class Namespaced(Run):
    """One that has made namespaces for itself."""

    def namespaces(self) -> set[str]:
        """Return them."""
        return {name for pid in self.pids() for name in namespaces(pid)} - set(
            namespaces(os.getpid())
        )

    def wait_for_nothing_left(self, own: set[str]) -> None:
        """Wait until no process, and so no namespace, is left, and no directory but kept logs."""
        wait_until(lambda: alive_in(own) == [], seconds=SECONDS, what="end of all processes")
        wait_until(lambda: self.directories() == [], seconds=SECONDS, what="an empty /tmp")


def namespaces(pid: int) -> list[str]:
    with suppress(OSError):
        return [str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in KINDS]
    return []


def alive_in(gone: set[str]) -> list[list[str]]:
    """Return the commands of what still runs in any of these namespaces."""
    return [command(pid) for pid in pids() if gone & set(namespaces(pid))]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Namespaced]]:
    """Start one sandbox with one node; it is gone at the end of the test at the latest."""
    scratch, output = tmp_path / "tmp", tmp_path / "output"
    scratch.mkdir()
    started: list[subprocess.Popen[bytes]] = []

    def run(mode: str) -> Namespaced:
        with output.open("wb") as file:
            popen = subprocess.Popen(
                [sys.executable, "-m", "kmm_sandbox", mode, "--nodes", "process", "--count", "1"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"},
            )
        started.append(popen)
        return Namespaced(popen, output, scratch)

    yield run
    for popen in started:
        popen.kill()
        popen.wait()


def interrupt(run: Namespaced) -> None:
    run.popen.send_signal(signal.SIGINT)


def interrupt_twice(run: Namespaced) -> None:
    """Press Ctrl-C, and again while the sandbox is held up in its end."""
    os.kill(run.process("kmm_sandbox.process.inner"), signal.SIGSTOP)
    interrupt(run)
    run.wait_for(ENDING)
    interrupt(run)


def hang_up(run: Namespaced) -> None:
    run.popen.send_signal(signal.SIGHUP)


def terminate(run: Namespaced) -> None:
    run.popen.send_signal(signal.SIGTERM)


def kill_outer_half(run: Namespaced) -> None:
    run.popen.kill()


def kill_inner_half(run: Namespaced) -> None:
    os.kill(run.process("kmm_sandbox.process.inner"), signal.SIGKILL)


def kill_etcd(run: Namespaced) -> None:
    etcd = next(
        p
        for p in pids()
        if command(p)[:1]
        and Path(command(p)[0]).name == "etcd"
        and str(run.scratch) in environment(p)
    )
    os.kill(etcd, signal.SIGKILL)


@pytest.mark.parametrize(
    ("moment", "end", "codes"),
    [
        (UP, interrupt, {0}),
        (UP, interrupt_twice, {130}),
        (UP, hang_up, {0}),
        (UP, kill_outer_half, {-9}),
        (UP, kill_inner_half, {137}),
        (STARTING, terminate, {130}),
        (STARTING, interrupt_twice, {130}),
        (STARTING, kill_outer_half, {-9}),
    ],
)
def test_whatever_ends_the_sandbox_nothing_of_it_is_left(
    start: Callable[[str], Namespaced],
    moment: str,
    end: Callable[[Namespaced], None],
    codes: set[int],
) -> None:
    run = start("up")
    run.wait_for(moment)
    own = run.namespaces()
    assert len(own) >= len(KINDS)
    end(run)
    assert run.ended() in codes, run.said()
    run.wait_for_nothing_left(own)


def test_part_that_dies_is_named_and_its_logs_are_kept(start: Callable[[str], Namespaced]) -> None:
    run = start("up")
    run.wait_for(UP)
    own = run.namespaces()
    kill_etcd(run)
    assert run.ended() == 1
    run.wait_for_nothing_left(own)
    assert "failed: etcd ended with exit code -9" in run.said()
    (kept,) = run.scratch.glob("kmm-sandbox-logs-*")
    assert f"logs of the failed run: {kept}" in run.said()
    assert any("etcd" in log.name for log in kept.rglob("*.log"))


def test_check_that_is_interrupted_still_ends_with_its_verdict(
    start: Callable[[str], Namespaced],
) -> None:
    run = start("check")
    run.wait_for(STEPPING)
    interrupt(run)
    assert run.ended() != 0
    verdict = json.loads(run.said().splitlines()[-1])
    assert verdict["ok"] is False
    assert verdict["steps"] == [{"step": "load", "error": "interrupted"}]


def test_check_whose_halves_are_killed_still_ends_with_a_verdict(
    start: Callable[[str], Namespaced],
) -> None:
    run = start("check")
    run.wait_for(STEPPING)
    kill_inner_half(run)
    assert run.ended() != 0
    verdict = json.loads(run.said().splitlines()[-1])
    assert verdict == {
        "ok": False,
        "nodes": "process",
        "error": "the sandbox ended without a verdict",
    }
