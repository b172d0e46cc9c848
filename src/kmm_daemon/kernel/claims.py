"""Which processes are at work on the kernel: each holds a lock that ends with it, not with us.

A process inherits a locked file from the daemon that starts it. As long as the lock is held the
process is there: after a crash of the daemon at any moment, in another pid namespace, and whatever
process has its id by then. A reboot takes every lock. So a process id is for people only.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kmm_common.desired import ModuleRef
from kmm_daemon.values import Process

NAME = "processes"
"""Directory of the claims in the run directory."""
_SCRATCH = ".new"


@dataclass(slots=True, kw_only=True)
class Claim:
    """A locked file that says what a process does; the process has to inherit the descriptor."""

    descriptor: int
    process: Process

    def started(self, pid: int) -> None:
        """Note the process id, as far as that is possible: it is for people only."""
        self.process = replace(self.process, pid=pid)
        with suppress(OSError):
            os.pwrite(self.descriptor, _encode(self.process), 0)


class Claims:
    """The claims of a node, in a directory that does not outlive the boot.

    Made in one thread only; looked at in any.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def made(self, process: Process) -> Iterator[Claim]:
        """Claim a Module for a process that is about to start. Raises OSError.

        On leaving, the daemon lets go: what remains is what the process itself holds.
        """
        claim = self._make(process)
        try:
            yield claim
        finally:
            os.close(claim.descriptor)
            self._tidy()

    def alive(self) -> Mapping[ModuleRef, Process]:
        """Return the processes that have not ended. Raises OSError."""
        processes = (_decode(path) for path in self._files() if _is_held(path))
        return {process.ref: process for process in processes}

    def _make(self, process: Process) -> Claim:
        """Lock the file before it has its name: nobody ever sees it free."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._tidy()
        path = self._directory / _file_name(process.ref)
        scratch = path.with_suffix(_SCRATCH)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(scratch, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, _encode(process))
            scratch.replace(path)
        except OSError:
            os.close(descriptor)
            raise
        return Claim(descriptor=descriptor, process=process)

    def _tidy(self) -> None:
        for path in self._files():
            if not _is_held(path):
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        if not self._directory.is_dir():
            return []
        return sorted(path for path in self._directory.iterdir() if path.suffix != _SCRATCH)


def _file_name(ref: ModuleRef) -> str:
    # No namespace and no name of an object has an underscore.
    return f"{ref.namespace}_{ref.name}.json"


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _encode(process: Process) -> bytes:
    said = {"pid": process.pid, "program": process.program, "names": process.names}
    return json.dumps(said).encode()


def _decode(path: Path) -> Process:
    """Return what a claim says. The lock alone counts: what cannot be read is a process as well."""
    namespace, _, name = path.name.removesuffix(".json").partition("_")
    ref = ModuleRef(namespace, name)
    with suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads(path.read_bytes())
        return Process(
            ref=ref, pid=said["pid"], program=said["program"], names=tuple(said["names"])
        )
    return Process(ref=ref, program="modprobe")
