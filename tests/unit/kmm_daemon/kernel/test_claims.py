"""Real processes: a claim is held by who does the work, and by nobody else."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from kmm_common.desired import ModuleRef
from kmm_daemon.kernel.claims import Claims
from kmm_daemon.kernel.runner import Deadline, Runner
from kmm_daemon.values import Process

REF = ModuleRef("ns", "a.module")
PROCESS = Process(ref=REF, program="modprobe", names=("a_module", "below"))


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(tmp_path / "processes")


async def start(claims: Claims) -> asyncio.subprocess.Process:
    """Start a process with a claim and let go of it, as a daemon does that ends."""
    with claims.made(PROCESS) as claim:
        process = await asyncio.create_subprocess_exec(
            "/bin/sleep", "1000", pass_fds=(claim.descriptor,)
        )
        claim.started(process.pid)
    return process


async def end(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()


async def test_process_is_known_until_it_ends(claims: Claims) -> None:
    process = await start(claims)
    known = Process(ref=REF, pid=process.pid, program="modprobe", names=PROCESS.names)
    assert claims.alive() == {REF: known}
    await end(process)
    assert claims.alive() == {}


def test_nobody_is_known_before_anything_was_started(claims: Claims) -> None:
    assert claims.alive() == {}


async def test_process_of_another_daemon_is_known(claims: Claims, tmp_path: Path) -> None:
    """The daemon is killed as soon as the process runs: it never says which one that is."""
    program = f"""
import os, signal, subprocess
from pathlib import Path
from kmm_common.desired import ModuleRef
from kmm_daemon.kernel.claims import Claims
from kmm_daemon.values import Process
process = Process(ref=ModuleRef("ns", "a.module"), program="modprobe", names=("a_module", "below"))
with Claims(Path({str(tmp_path / "processes")!r})).made(process) as claim:
    command = ["/bin/sleep", "1000"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, pass_fds=(claim.descriptor,))
    print(child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await daemon.communicate()
    assert claims.alive() == {REF: PROCESS}
    os.kill(int(said), signal.SIGKILL)
    while claims.alive():
        await asyncio.sleep(0.001)


async def test_claim_of_a_daemon_that_started_nothing_is_no_process(claims: Claims) -> None:
    with claims.made(PROCESS):
        assert claims.alive() == {REF: PROCESS}
    assert claims.alive() == {}


async def test_process_whose_claim_cannot_be_read_is_a_process(
    claims: Claims, tmp_path: Path
) -> None:
    process = await start(claims)
    (tmp_path / "processes/ns_a.module.json").write_bytes(b"{")
    assert claims.alive() == {REF: Process(ref=REF, program="modprobe")}
    await end(process)


async def test_ended_processes_leave_no_files(claims: Claims, tmp_path: Path) -> None:
    await end(await start(claims))
    await end(await start(claims))
    with claims.made(PROCESS):
        pass
    assert list((tmp_path / "processes").iterdir()) == []


async def test_runner_hands_the_claim_to_its_process_and_to_no_other(
    claims: Claims, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    with claims.made(PROCESS) as claim:
        run = asyncio.create_task(
            Runner().run(["/bin/sh", "-c", f"read line < {go}"], Deadline(seconds=60.0), claim)
        )
        while not claim.process.pid:
            await asyncio.sleep(0.001)
        beside = await asyncio.create_subprocess_exec("/bin/sleep", "1000")
    assert claims.alive()[REF].pid == claim.process.pid
    await asyncio.to_thread(go.write_text, "go\n")
    assert (await run).ok
    assert claims.alive() == {}
    await end(beside)
