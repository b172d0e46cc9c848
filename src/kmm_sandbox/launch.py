"""The outer half: prepares the machine, starts the sandbox in namespaces, and cleans up after it.

The inner half lives exactly as long as a pipe to this process: when the pipe is closed, by
Ctrl-C or because this process is gone, it ends in order; a second Ctrl-C ends it at once.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from kmm_sandbox import machine, namespaces, xstate
from kmm_sandbox.binaries import cache_directory, find_binaries
from kmm_sandbox.progress import Progress
from kmm_sandbox.relay import outside_socket

PREFIX = "kmm-sandbox-"
LOCK = "lock"


def launch(mode: str, *, nodes: int) -> int:
    """Run the sandbox in a mode of kmm_sandbox.inner; return its exit code."""
    progress = Progress()
    machine.prepare(progress)
    find_binaries(progress)
    xstate.preload(cache_directory())
    sweep()
    with _directory() as directory, outside_socket() as api:
        code = _run(mode, directory, api, nodes)
        if code:
            kept = Path(tempfile.mkdtemp(prefix="kmm-sandbox-logs-"))
            _keep_logs(directory, kept)
            progress.say(f"logs of the failed run: {kept}")
    return code


def sweep() -> None:
    """Remove directories of earlier runs that nobody holds any more."""
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        lock = directory / LOCK
        if lock.exists() and _is_free(lock):
            shutil.rmtree(directory, ignore_errors=True)


def _is_free(lock: Path) -> bool:
    with lock.open() as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@contextmanager
def _directory() -> Iterator[Path]:
    """Make the run's directory and hold its lock while it is in use."""
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    with (directory / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _run(mode: str, directory: Path, api: socket.socket, nodes: int) -> int:
    lifeline, ours = os.pipe()
    inner = [
        *(sys.executable, "-m", "kmm_sandbox.inner", mode, "--directory", str(directory)),
        *("--api-socket", str(api.fileno()), "--lifeline", str(lifeline), "--nodes", str(nodes)),
    ]
    child = subprocess.Popen(
        namespaces.inside(inner),
        pass_fds=(api.fileno(), lifeline),
        stdin=subprocess.DEVNULL,
        # Ctrl-C is for this process alone, which passes it on by closing the pipe.
        start_new_session=True,
    )
    os.close(lifeline)
    with _interruptible(child, ours):
        return child.wait()


@contextmanager
def _interruptible(child: "subprocess.Popen[bytes]", pipe: int) -> Iterator[None]:
    """Close the pipe at the first signal, kill the child at the second."""
    open_pipes = [pipe]

    def interrupted(number: int, frame: FrameType | None) -> None:
        if open_pipes:
            os.close(open_pipes.pop())
        else:
            child.kill()

    before = {each: signal.signal(each, interrupted) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for descriptor in open_pipes:
            os.close(descriptor)


def _keep_logs(directory: Path, kept: Path) -> None:
    for log in directory.rglob("*.log"):
        target = kept / log.relative_to(directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(log, target)
