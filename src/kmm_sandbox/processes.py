"""Processes of their own process group, with their output in a file and their end noticed."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kmm_common.clock import SystemClock
from kmm_sandbox.errors import SandboxError

TAIL_BYTES = 4096
END_SECONDS = 30.0


@dataclass(slots=True, kw_only=True)
class Process:
    """A started program and everything it started, as one process group."""

    name: str
    log: Path
    popen: "subprocess.Popen[bytes]" = field(repr=False)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number if one ended it."""
        return self.popen.poll()

    @property
    def alive(self) -> bool:
        return self.exit_code is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group; one that is gone is none of our business."""
        try:
            os.killpg(self.popen.pid, number)
        except ProcessLookupError:
            return

    def kill(self) -> None:
        """End the whole group at once, and wait until none of it holds a file any more."""
        self.signal(signal.SIGKILL)
        self.popen.wait(timeout=END_SECONDS)
        # What the leader has started ends by itself, and is not ours to wait for.
        wait_until(
            lambda: not _group_runs(self.pid),
            seconds=END_SECONDS,
            what=f"end of all of {self.name}",
        )

    def stop(self, *, grace: float) -> int:
        """Ask with SIGTERM, insist with SIGKILL after `grace` seconds; return the exit code."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout=grace)
        self.kill()
        return self.popen.returncode

    def tail(self) -> str:
        """Return the last lines of the log."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace")

    def require_alive(self) -> None:
        """Raise SandboxError, with the end of the log, if the process has ended."""
        if not self.alive:
            raise SandboxError(
                f"{self.name} ended with exit code {self.exit_code}; its log {self.log} ends:\n"
                f"{self.tail()}",
                reason="ProcessDied",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """Starts processes whose logs go to one directory.

    `leashed` processes are killed by the kernel when the *thread* that started them ends: for
    a main thread without a PID namespace around it.
    """

    logs: Path
    leashed: bool

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a program; its output is appended to `<logs>/<name>.log` or to `log`."""
        path = log or self.logs / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as output:
            popen = subprocess.Popen(
                leash(argv) if self.leashed else list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=None if env is None else {**os.environ, **env},
            )
        return Process(name=name, log=path, popen=popen)


def _group_runs(group: int) -> bool:
    """Tell whether a process group has a process that is more than its exit code."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, theirs = stat.read_text().rpartition(")")[2].split()[:3]
            if int(theirs) == group and state not in "ZX":
                return True
    return False


def leash(argv: Sequence[str]) -> list[str]:
    """Return argv such that the kernel kills the program when its parent is gone."""
    return ["setpriv", "--pdeathsig", "KILL", *argv]


def run(argv: Sequence[str], *, limit: float, stdin: str | None = None) -> str:
    """Run a program to its end and return its output; SandboxError with its stderr if it fails."""
    try:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SandboxError(
            f"{argv[0]} did not end within {limit:.0f} s", reason="TimedOut"
        ) from error
    except FileNotFoundError as error:
        raise SandboxError(f"{argv[0]} is not installed", reason="ProgramMissing") from error
    if done.returncode:
        raise SandboxError(f"{' '.join(argv[:6])}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def wait_until(ready: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Ask every 50 ms until `ready` answers true; SandboxError naming `what` after the deadline."""
    clock = SystemClock()
    deadline = clock.monotonic() + seconds
    while not ready():
        if clock.monotonic() > deadline:
            raise SandboxError(f"{what}: not within {seconds:.0f} s", reason="TimedOut")
        time.sleep(0.05)
