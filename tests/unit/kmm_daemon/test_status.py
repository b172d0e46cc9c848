"""kmm-daemon status: what a person on the node reads, with and without a daemon."""

from dataclasses import replace
from pathlib import Path

import pytest

from kmm_common.clock import rfc3339
from kmm_common.desired import ModuleFailure
from kmm_daemon import journal, lock, sessionnote, status
from kmm_daemon.journal import Memory
from kmm_daemon.kernel import claims
from kmm_daemon.kernel.claims import Claims
from kmm_daemon.sessionnote import SessionNote, SessionNotes
from kmm_daemon.settings import Settings
from kmm_daemon.situation import FailedStep
from kmm_daemon.status import NodeStatus, as_text
from kmm_daemon.values import KernelModule, KernelView, LoadedRecord, Process
from support.node import desired
from support.simkernel import KERNEL
from support.tmpkernel import TmpKernel
from support.virtualclock import VirtualClock

LOADED, BROKEN = desired("good"), desired("bad")
VIEW = KernelView(
    boot_id="boot-1",
    kernel_version=KERNEL,
    modules={name: KernelModule(name=name, build="1") for name in ("good", "below")},
)
FAILED = FailedStep(
    entry=BROKEN,
    failure=ModuleFailure(
        reason="DeviceError", message="No such device", kernel_log=("bad: no card",)
    ),
    attempts=3,
    retry=True,
)
MEMORY = Memory(
    uid="nms-1",
    generation=7,
    modules=(BROKEN, LOADED),
    records=(LoadedRecord(module=LOADED, kernel_modules=("good", "below"), warning="odd"),),
    failures=(FAILED,),
)
CONNECTED = SessionNote(connected=True, since="2026-11-26T04:00:00Z")


def node_status(
    *,
    daemon: str = "",
    session: SessionNote | None = None,
    view: KernelView = VIEW,
    memory: Memory = MEMORY,
) -> NodeStatus:
    certificate = "valid until 2026-12-01T00:00:00Z"
    return NodeStatus(
        daemon=daemon, session=session, certificate=certificate, view=view, memory=memory
    )


def test_every_module_is_told_with_what_is_in_the_kernel_and_why_not() -> None:
    text = as_text(node_status(daemon="42", session=CONNECTED))
    assert text.splitlines() == [
        f"kernel         {KERNEL}, boot boot-1",
        "daemon         process 42",
        "session        with the control plane, since 2026-11-26T04:00:00Z",
        "certificate    valid until 2026-12-01T00:00:00Z",
        "desired state  generation 7 of nms-1",
        "",
        "Module ns/bad: Failed",
        "  in the kernel  none",
        "  image digest   sha256:aaaaaaaa",
        "  DeviceError, attempt 3: No such device",
        "    kernel: bad: no card",
        "",
        "Module ns/good: Loaded",
        "  in the kernel  good, below",
        "  image digest   sha256:aaaaaaaa",
        "  warning        odd",
    ]


def test_module_that_vanished_is_told() -> None:
    gone = replace(VIEW, modules={})
    text = as_text(node_status(view=gone, memory=replace(MEMORY, modules=(LOADED,))))
    assert "does not run" in text
    assert "Module ns/good: Pending" in text
    assert "Vanished: good was taken out of the kernel by somebody else" in text


def settings(directory: Path) -> Settings:
    tls = {"cert": "/c", "key": "/k", "ca": "/a"}
    return Settings(server="cp:8443", tls=tls, run_dir=directory)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory with the files of a kernel of boot-1."""
    return TmpKernel(tmp_path / "host").root


async def test_node_without_a_journal_says_so_and_nothing_is_made(
    tmp_path: Path, host: Path
) -> None:
    seen = await status.look(settings(tmp_path / "run"), host)
    assert "no desired state has arrived in this boot" in as_text(seen)
    assert not (tmp_path / "run").exists()


async def test_journal_of_another_boot_is_named_and_left_where_it_is(
    tmp_path: Path, host: Path
) -> None:
    (tmp_path / journal.NAME).write_bytes(journal.encode(MEMORY, "another boot"))
    assert "of boot 'another boot'" in as_text(await status.look(settings(tmp_path), host))
    assert (tmp_path / journal.NAME).exists()


async def test_journal_of_this_boot_and_the_running_daemon_are_found(
    tmp_path: Path, host: Path
) -> None:
    (tmp_path / journal.NAME).write_bytes(journal.encode(MEMORY, "boot-1"))
    with lock.only_one(tmp_path):
        seen = await status.look(settings(tmp_path), host)
    assert seen.memory == MEMORY
    assert seen.daemon.isdecimal()
    assert (await status.look(settings(tmp_path), host)).daemon == ""


async def test_process_that_has_not_ended_is_told(tmp_path: Path, host: Path) -> None:
    (tmp_path / journal.NAME).write_bytes(journal.encode(MEMORY, "boot-1"))
    process = Process(ref=LOADED.ref, program="rmmod", names=("good",))
    with Claims(tmp_path / claims.NAME).made(process) as claim:
        claim.started(812)
        text = as_text(await status.look(settings(tmp_path), host))
    assert "Module ns/good: Pending" in text
    assert "StillRunning: process 812 (rmmod good) has not ended" in text


def test_node_without_any_desired_state_says_so() -> None:
    text = as_text(node_status(daemon="1", memory=Memory()))
    assert "unknown: none was accepted" in text


async def test_session_is_told_as_the_running_daemon_noted_it(tmp_path: Path, host: Path) -> None:
    clock, chosen = VirtualClock(), settings(tmp_path)
    notes = SessionNotes(tmp_path, clock)
    since = rfc3339(clock.now())
    notes.session(connected=False, problem="no answer")
    await clock.advance(60)
    notes.session(connected=False, problem="UNAVAILABLE: not ready")
    with lock.only_one(tmp_path):
        text = as_text(await status.look(chosen, host))
        assert f"session        none since {since}: UNAVAILABLE: not ready" in text
        notes.session(connected=True)
        text = as_text(await status.look(chosen, host))
        assert f"session        with the control plane, since {rfc3339(clock.now())}" in text
    assert "session        none: the daemon does not run" in as_text(
        await status.look(chosen, host)
    )


async def test_note_that_cannot_be_written_or_read_disturbs_nothing(
    tmp_path: Path, host: Path
) -> None:
    (tmp_path / sessionnote.NAME).mkdir()
    SessionNotes(tmp_path, VirtualClock()).session(connected=True)
    assert (await status.look(settings(tmp_path), host)).session is None


async def test_certificate_that_is_not_there_is_named(tmp_path: Path, host: Path) -> None:
    text = as_text(await status.look(settings(tmp_path), host))
    assert "certificate    /c: No such file or directory; put a PEM file there" in text
