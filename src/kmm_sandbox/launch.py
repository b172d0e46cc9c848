"""The outer half: prepares the machine, starts the sandbox in namespaces, and cleans up after it.

The inner half lives exactly as long as a pipe to this process: when the pipe is closed, by
Ctrl-C or because this process is gone, it ends in order; a second Ctrl-C ends it at once.
"""

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

from kmm_sandbox import machine, namespaces, rundirectory, verdict, xstate
from kmm_sandbox.binaries import cache_directory, find_binaries
from kmm_sandbox.lifeline import INTERRUPTED
from kmm_sandbox.progress import Progress
from kmm_sandbox.relay import outside_socket

CHECK = "check"
"""The mode whose last line is a verdict."""


def launch(mode: str, *, nodes: int) -> int:
    """Run the sandbox in a mode of kmm_sandbox.inner; return its exit code."""
    progress = Progress()
    machine.prepare(progress)
    find_binaries(progress)
    xstate.preload(cache_directory())
    rundirectory.sweep()
    with rundirectory.held() as directory, outside_socket() as api:
        code = _run(mode, directory, api, nodes)
        if code not in (0, INTERRUPTED):
            kept = Path(tempfile.mkdtemp(prefix="kmm-sandbox-logs-"))
            _keep_logs(directory, kept)
            progress.say(f"logs of the failed run: {kept}")
        if mode == CHECK:
            print(verdict.line(directory), flush=True)
    return code


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
    open_pipes = [ours]
    with _interruptible(child, open_pipes):
        code = child.wait()
        interrupted = not open_pipes
    return INTERRUPTED if code and interrupted else code


@contextmanager
def _interruptible(child: "subprocess.Popen[bytes]", open_pipes: list[int]) -> Iterator[None]:
    """Close the pipe at the first signal, kill the child at the second."""

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
