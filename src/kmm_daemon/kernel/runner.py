"""The only door to subprocesses: argv lists, an empty environment, a deadline, bounded output."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from kmm_common.errors import TerminalError, TransientError
from kmm_daemon.kernel.claims import Claim

OUTPUT_BYTES = 64 * 1024
SEARCH = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin"
ENVIRONMENT = {"LC_ALL": "C"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """How long a process may take: seconds to SIGTERM, then to SIGKILL, then until it is stuck."""

    seconds: float = 180.0
    grace: float = 10.0
    last: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a process ended."""

    exit_code: int | None = 0
    """None if a signal ended it, or nothing did."""
    stderr: str = ""
    """The last 64 KiB of it."""
    timed_out: bool = False
    signal: int | None = None
    stuck: bool = False
    """Not even SIGKILL has ended it: it waits inside the kernel."""

    @property
    def ok(self) -> bool:
        """True for exit code 0."""
        return self.exit_code == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Absolute paths of the programs of kmod."""

    modprobe: str
    rmmod: str
    depmod: str

    @classmethod
    def find(cls, search: str = SEARCH) -> "Programs":
        """Return them as installed. Raises TerminalError."""
        names = ("modprobe", "rmmod", "depmod")
        return cls(**{name: _found(name, search) for name in names})


def _found(name: str, search: str) -> str:
    path = shutil.which(name, path=search)
    if path is None:
        message = f"{name} is not in {search}: install kmod"
        raise TerminalError(message, reason="ProgramMissing")
    return path


class _Tail:
    """The last bytes written to a pipe; drained for as long as anybody writes."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._content = bytearray()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reader, self._read)

    def _read(self) -> None:
        try:
            chunk = os.read(self._reader, OUTPUT_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            self._loop.remove_reader(self._reader)
        self._content += chunk
        del self._content[:-OUTPUT_BYTES]

    def close(self) -> str:
        """Return what was written; does not wait for processes that still hold the pipe open."""
        self._read()
        self._loop.remove_reader(self._reader)
        os.close(self._reader)
        return self._content.decode(errors="replace")


class Runner:
    """Starts programs in a process group of their own and waits for them, never for ever."""

    async def run(
        self, argv: Sequence[str], deadline: Deadline, claim: Claim | None = None
    ) -> Completed:
        """Run a program, given by absolute path, to its end or to its deadline.

        The process takes a claim with it. Raises TransientError if it cannot be started.
        Cancelled, it kills the process group.
        """
        tail = _Tail()
        try:
            process = await _start(argv, tail.writer, claim)
            os.close(tail.writer)
            ended_in_time = await _waited(process, deadline)
        finally:
            stderr = tail.close()
        return _completed(process, stderr, timed_out=not ended_in_time)


async def _start(
    argv: Sequence[str], stderr: int, claim: Claim | None
) -> asyncio.subprocess.Process:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=stderr,
            env=ENVIRONMENT,
            cwd="/",
            # A session of its own is a process group of its own, and uvloop knows no other way.
            start_new_session=True,
            pass_fds=(claim.descriptor,) if claim else (),
        )
    except OSError as error:
        os.close(stderr)
        message = f"cannot start {argv[0]}: {error.strerror}"
        raise TransientError(message, reason="ProgramNotStarted") from error
    if claim:
        claim.started(process.pid)
    return process


async def _waited(process: asyncio.subprocess.Process, deadline: Deadline) -> bool:
    """Wait for the end, with more and more insistence; tell whether it came by itself."""
    try:
        if await _ends(process, deadline.seconds):
            return True
        _signal(process, signal.SIGTERM)
        if not await _ends(process, deadline.grace):
            _signal(process, signal.SIGKILL)
            await _ends(process, deadline.last)
    finally:
        # Whatever it has started goes with it, also if the wait was cancelled.
        _signal(process, signal.SIGKILL)
    return False


async def _ends(process: asyncio.subprocess.Process, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await process.wait()
    return process.returncode is not None


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _completed(process: asyncio.subprocess.Process, stderr: str, *, timed_out: bool) -> Completed:
    code = process.returncode
    if code is None:
        return Completed(exit_code=None, stderr=stderr, timed_out=True, stuck=True)
    if code < 0:
        return Completed(exit_code=None, signal=-code, stderr=stderr, timed_out=timed_out)
    return Completed(exit_code=code, stderr=stderr, timed_out=timed_out)
