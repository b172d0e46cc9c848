"""The outer half: prepares the machine, starts the sandbox in namespaces, and cleans up after it.

The inner half lives exactly as long as a pipe to this process: when the pipe is closed, by
Ctrl-C or because this process is gone, it ends in order; a second Ctrl-C ends it at once.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from kmm_sandbox import machine, namespaces, rundirectory, xstate
from kmm_sandbox.binaries import find_binaries
from kmm_sandbox.cache import cache_directory
from kmm_sandbox.ended import Ended, ended
from kmm_sandbox.lifeline import INTERRUPTED, SIGNALS
from kmm_sandbox.progress import Progress
from kmm_sandbox.relay import outside_socket


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """The inner half of a kind of sandbox: its module, and what that needs besides."""

    module: str
    prepare: Callable[[Progress], None] = lambda progress: None
    supply: Callable[[Path], None] = lambda directory: None
    """Puts into the run's directory what the inner half has no network for."""


def launch(mode: str, *, nodes: int, progress: Progress, inner: Inner) -> Ended:
    """Run so many nodes in a mode of the inner half. Raises SandboxError."""
    machine.prepare(progress)
    find_binaries(progress)
    inner.prepare(progress)
    xstate.preload(cache_directory())
    rundirectory.sweep()
    with rundirectory.held() as directory, outside_socket() as api:
        inner.supply(directory)
        code = _run(inner.module, mode, directory, api, nodes, progress)
        end = ended(code, directory, progress)
        # Images and disks of nodes: half a minute on a busy machine. The terminal may be gone.
        with contextlib.suppress(OSError):
            progress.say(f"removing {directory}")
        return end


def _run(
    module: str, mode: str, directory: Path, api: socket.socket, nodes: int, progress: Progress
) -> int:
    """Run the inner half; return its exit code, as a shell tells of one that a signal ended."""
    lifeline, ours = os.pipe()
    inner = [
        *(sys.executable, "-m", module, mode, "--directory", str(directory)),
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
    with _interruptible(child, open_pipes, progress):
        code = child.wait()
        interrupted = not open_pipes
    if code and interrupted:
        return INTERRUPTED
    return code if code >= 0 else 128 - code


@contextmanager
def _interruptible(
    child: "subprocess.Popen[bytes]", open_pipes: list[int], progress: Progress
) -> Iterator[None]:
    """Close the pipe at the first signal, kill the child at the second."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        if open_pipes:
            os.close(open_pipes.pop())
            # After a hang-up there is nobody to tell.
            with contextlib.suppress(OSError):
                progress.say("stopping everything (Ctrl-C again: at once)")
        else:
            child.kill()

    before = {each: signal.signal(each, interrupted) for each in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for descriptor in open_pipes:
            os.close(descriptor)
