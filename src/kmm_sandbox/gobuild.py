"""Builds programs from Go modules that pin what they need, counting packages while it does."""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kmm_common.clock import SystemClock
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import leash
from kmm_sandbox.progress import Progress

GOMODULES = Path(__file__).parent / "gomodules"
LIMIT_SECONDS = 3600.0
REPORT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """Programs of one Go module."""

    module: Path
    """Directory with go.mod and go.sum."""
    packages: Mapping[str, str]
    """Package by the name of its program."""
    ldflags: str = ""


@dataclass(slots=True)
class _Compiled:
    """What `go build -v` has printed so far: one package a line, or an error."""

    lines: list[str] = field(default_factory=list)

    def read(self, output: Iterable[str]) -> None:
        for line in output:
            self.lines.append(line.rstrip())


def pinned_version(module: str, gomod: str) -> str:
    """Return the version that the text of a go.mod requires of a module."""
    match = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", gomod, re.MULTILINE)
    if match is None:
        raise SandboxError(f"go.mod does not require {module}")
    return match.group(1)


def build(go: Path, job: Build, target: Path, progress: Progress) -> None:
    """Put the job's programs into a directory. Raises SandboxError with the compiler's words."""
    environment = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off"}
    names = ", ".join(job.packages)
    with progress.step(f"{names}: downloading sources"):
        total = _download(go, job, environment)
    with progress.step(f"{names}: compiling up to {total} packages"):
        _compile(build_argv(go, job, target), environment, Meter(names, total, progress))


def build_argv(go: Path, job: Build, target: Path) -> list[str]:
    """Return the command that builds the job's programs into a directory."""
    flags = f"-s -w {job.ldflags}".strip()
    # With several packages -o names a directory; the programs get the packages' names.
    output = f"{target}/" if len(job.packages) > 1 else str(target / next(iter(job.packages)))
    return [
        *(str(go), "-C", str(job.module), "build", "-v", "-trimpath", "-buildvcs=false"),
        *("-ldflags", flags, "-o", output, *job.packages.values()),
    ]


@dataclass(slots=True)
class Meter:
    """Says every ten seconds how far a build is."""

    names: str
    total: int
    progress: Progress
    _next: float = 0.0

    def show(self, compiled: int, seconds: float) -> None:
        if seconds >= self._next:
            self._next = seconds + REPORT_SECONDS
            if compiled:
                self.progress.say(f"  {self.names}: {compiled} of {self.total} packages")


def _download(go: Path, job: Build, environment: Mapping[str, str]) -> int:
    """Fetch the modules the programs need (not all that go.mod names); count their packages."""
    argv = [str(go), "-C", str(job.module), "list", "-deps", *job.packages.values()]
    done = subprocess.run(
        leash(argv), env=dict(environment), capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    if done.returncode:
        raise SandboxError(
            f"could not fetch the sources of {', '.join(job.packages)}. Remedy: give this machine a"
            " way to a Go module proxy (GOPROXY); for the Kubernetes programs, KUBEBUILDER_ASSETS"
            f" may name a directory with them instead.\n{done.stderr[-2000:]}"
        )
    return len(done.stdout.splitlines())


def _compile(argv: list[str], environment: Mapping[str, str], meter: Meter) -> None:
    clock, compiled = SystemClock(), _Compiled()
    started = clock.monotonic()
    process = subprocess.Popen(
        leash(argv),
        env=dict(environment),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    reader = threading.Thread(target=compiled.read, args=(process.stderr,), name="go-build-output")
    reader.start()
    try:
        while process.poll() is None:
            if clock.monotonic() - started > LIMIT_SECONDS:
                raise SandboxError(f"go build did not end within {LIMIT_SECONDS:.0f} s")
            meter.show(len(compiled.lines), clock.monotonic() - started)
            time.sleep(0.2)
    finally:
        # The compilers, too, which hold the other end of the pipe.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join()
        if process.stderr is not None:
            process.stderr.close()
    if process.returncode:
        raise SandboxError("go build failed:\n" + "\n".join(compiled.lines[-20:]))
