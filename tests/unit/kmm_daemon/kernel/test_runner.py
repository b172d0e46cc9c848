"""Real processes: the runner's whole purpose is what becomes of them."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from kmm_common.errors import TerminalError, TransientError
from kmm_daemon.kernel.runner import OUTPUT_BYTES, Completed, Deadline, Programs, Runner

SOON = Deadline(seconds=0.05, grace=0.05, last=5.0)
LONG = Deadline(seconds=30.0)


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


async def test_exit_code_and_stderr_are_returned():
    completed = await Runner().run(shell("echo no >&2; exit 3"), LONG)
    assert completed == Completed(exit_code=3, stderr="no\n")
    assert not completed.ok


async def test_environment_is_empty_but_for_the_locale(monkeypatch):
    monkeypatch.setenv("MODPROBE_OPTIONS", "--force")
    completed = await Runner().run(["/usr/bin/env", "sh", "-c", "env >&2"], LONG)
    names = {line.partition("=")[0] for line in completed.stderr.splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"LC_ALL"}


async def test_process_is_ended_when_its_deadline_passes():
    completed = await Runner().run(["/bin/sleep", "1000"], SOON)
    assert completed == Completed(exit_code=None, timed_out=True, signal=signal.SIGTERM)


async def test_process_is_killed_when_it_ignores_sigterm():
    completed = await Runner().run(shell("trap '' TERM; while :; do sleep 1000; done"), SOON)
    assert (completed.timed_out, completed.signal) == (True, signal.SIGKILL)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.subprocess.Process]:
    """Return what a runner starts."""
    start, processes = asyncio.create_subprocess_exec, []

    async def noted(*argv, **options):
        processes.append(await start(*argv, **options))
        return processes[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    return processes


async def test_process_is_reported_stuck_when_not_even_sigkill_ends_it(started, monkeypatch):
    monkeypatch.setattr(os, "killpg", lambda group, number: None)
    completed = await Runner().run(
        ["/bin/sleep", "1000"], Deadline(seconds=0.01, grace=0.01, last=0.01)
    )
    assert completed == Completed(exit_code=None, timed_out=True, stuck=True)
    started[0].kill()
    assert await started[0].wait() == -signal.SIGKILL


async def test_end_is_reported_when_a_grandchild_holds_the_pipe_open():
    completed = await Runner().run(shell("sleep 1000 & echo child >&2; exit 1"), LONG)
    assert completed == Completed(exit_code=1, stderr="child\n")


async def test_grandchildren_are_killed_when_the_process_has_ended(tmp_path: Path):
    pid = tmp_path / "pid"
    await Runner().run(shell(f"sleep 1000 & echo $! > {pid}"), LONG)
    grandchild = int(pid.read_text())
    state = await asyncio.to_thread(_state_once_dead, grandchild)
    assert state in ("", "Z")


def _state_once_dead(pid: int) -> str:
    for _ in range(10_000):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return ""
        if state == "Z":
            return state
        os.sched_yield()
    return state


async def test_only_the_last_output_is_kept_when_there_is_too_much():
    script = "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; "
    completed = await Runner().run(shell(script + "i=$((i+1)); done >&2; echo end >&2"), LONG)
    assert len(completed.stderr) == OUTPUT_BYTES
    assert completed.stderr.endswith("\nend\n")


async def test_process_is_killed_when_the_wait_is_cancelled(tmp_path: Path, started):
    pid = tmp_path / "pid"
    script = f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 1000"
    task = asyncio.create_task(Runner().run(shell(script), LONG))
    while not pid.exists():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await started[0].wait() == -signal.SIGKILL


async def test_program_that_cannot_start_is_named():
    with pytest.raises(TransientError, match="cannot start /no/such: No such file"):
        await Runner().run(["/no/such"], LONG)


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


async def test_no_descriptor_is_left_open_when_processes_have_ended():
    await Runner().run(["/bin/true"], LONG)
    before = descriptors()
    await Runner().run(["/bin/true"], LONG)
    with pytest.raises(TransientError):
        await Runner().run(["/no/such"], LONG)
    assert descriptors() == before


def test_missing_program_is_named_with_its_package(tmp_path: Path):
    with pytest.raises(TerminalError, match=r"modprobe is not in .*: install kmod"):
        Programs.find(str(tmp_path))
