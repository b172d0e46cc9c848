"""What a program tells of itself at a signal."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sized
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kmm_common import sampling
from kmm_common.logs import fields_of
from kmm_common.program import told_to_stop
from kmm_common.sampling import PERIOD_SECONDS, PROFILE_SECONDS
from support.fleet import eventually

STUCK = """
import ctypes
from kmm_common.program import run_program
from kmm_common.settings import ProgramSettings

def stuck_in_a_call(_):
    print("stuck", flush=True)
    ctypes.PyDLL(None).pause()

run_program("kmm-x", "X", load=lambda _: ProgramSettings(), run=stuck_in_a_call)
"""


@pytest.fixture(autouse=True)
def errors_only() -> Iterator[None]:
    """Have the program log errors only: who asks is answered all the same."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    yield
    root.setLevel(level)


def told(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    return [fields_of(each) for each in caplog.records if each.getMessage() == message]


@asynccontextmanager
async def running() -> AsyncIterator[None]:
    """Run what every program waits in."""
    waiting = asyncio.create_task(told_to_stop([]), name="program")
    await asyncio.sleep(0)
    try:
        yield
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await waiting


async def _inner(gate: asyncio.Event) -> None:
    await gate.wait()


async def _outer(gate: asyncio.Event) -> None:
    await _inner(gate)


async def test_each_task_is_told_with_all_that_it_waits_in_and_each_thread_below_python(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    gate = asyncio.Event()
    task = asyncio.create_task(_outer(gate), name="worker")
    async with running():
        os.kill(os.getpid(), signal.SIGUSR1)
        await eventually(lambda: asyncio.sleep(0, told(caplog, "tasks told")))
    (worker,) = [each for each in told(caplog, "task") if each["name"] == "worker"]
    places = [place.rpartition(".")[2].partition(":")[0] for place in worker["stack"]]
    assert places == ["_outer", "_inner", "wait"]
    assert "most recent call first" in capfd.readouterr().err
    gate.set()
    await task


@pytest.fixture
def busy() -> Iterator[None]:
    """A thread that waits in threading.Event.wait()."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="busy")
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.usefixtures("busy")
async def test_profile_says_where_each_thread_was_seen(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "PROFILE_SECONDS", 5 * sampling.PERIOD_SECONDS)
    async with running():
        os.kill(os.getpid(), signal.SIGUSR2)
        (ended,) = await eventually(lambda: asyncio.sleep(0, told(caplog, "profile ended")))
    assert ended["samples"] == 5
    seen = [each for each in told(caplog, "profiled") if each["stack"].startswith("busy;")]
    assert sum(each["samples"] for each in seen) == 5
    assert all("threading.Event.wait" in each["stack"] for each in seen)
    assert not any(each["stack"].startswith("profile;") for each in told(caplog, "profiled"))


def are(number: int, seen: Sized) -> bool:
    return len(seen) == number


async def test_second_signal_ends_a_profile_and_a_third_begins_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running():
        for number in (1, 2):
            os.kill(os.getpid(), signal.SIGUSR2)
            await eventually(lambda: asyncio.sleep(0, told(caplog, "profile begun")))
            os.kill(os.getpid(), signal.SIGUSR2)
            ended = await eventually(
                lambda: asyncio.sleep(0, told(caplog, "profile ended")),
                partial(are, number),
            )
    assert len(told(caplog, "profile begun")) == 2
    assert all(each["samples"] < PROFILE_SECONDS / PERIOD_SECONDS for each in ended)


def test_program_that_is_stuck_in_a_call_tells_where_nevertheless(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", STUCK, "--config", str(tmp_path / "none")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ran:
        assert ran.stdout is not None
        assert ran.stderr is not None
        try:
            assert ran.stdout.readline() == "stuck\n"
            ran.send_signal(signal.SIGUSR1)
            assert any("in stuck_in_a_call" in line for line in ran.stderr)
        finally:
            ran.kill()
