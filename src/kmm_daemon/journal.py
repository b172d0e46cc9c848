"""The daemon's memory of this boot: survives its own crash, never a reboot."""

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from kmm_common.desired import DesiredModule
from kmm_common.errors import TransientError
from kmm_common.logs import log
from kmm_daemon.situation import BegunLoad, FailedStep
from kmm_daemon.values import LoadedRecord

logger = logging.getLogger(__name__)
T = TypeVar("T")

FORMAT = 1
NAME = "journal.json"
ASIDE = "journal.unusable.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is written down: the accepted desired state, and what was done and tried for it."""

    uid: str = ""
    generation: int = 0
    modules: tuple[DesiredModule, ...] = ()
    left: tuple[str, ...] = ()
    """uids of NodeModulesStates that were left: refused from then on."""
    records: tuple[LoadedRecord, ...] = ()
    begun: tuple[BegunLoad, ...] = ()
    failures: tuple[FailedStep, ...] = ()
    """Those of desired Modules; retry_at is of the process that wrote it and not used again."""


class UnusableJournalError(Exception):
    """The journal is damaged, of another boot, or of a newer daemon: it is not replayed."""


def encode(memory: Memory, boot_id: str) -> bytes:
    """Return the journal's content, stamped with format, boot and checksum."""
    body = to_jsonable_python(memory)
    stamp = {"format": FORMAT, "boot_id": boot_id, "sha256": _checksum(body), "body": body}
    return json.dumps(stamp).encode()


def decode(content: bytes, boot_id: str) -> Memory:
    """Return what a journal of this boot says. Raises UnusableJournalError."""
    stamp = _stamp(content)
    if stamp.get("format") != FORMAT:
        raise UnusableJournalError(f"format {stamp.get('format')!r}, this daemon reads {FORMAT}")
    if stamp.get("boot_id") != boot_id:
        raise UnusableJournalError(f"of boot {stamp.get('boot_id')!r}, this is {boot_id!r}")
    body = stamp.get("body")
    if stamp.get("sha256") != _checksum(body):
        raise UnusableJournalError("checksum differs")
    # Built for this once a start: it would stay in the memory of every idle daemon.
    adapter: TypeAdapter[Memory] = TypeAdapter(Memory)
    try:
        return adapter.validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        raise UnusableJournalError(f"not a journal: {error.error_count()} wrong fields") from error


def _stamp(content: bytes) -> dict[str, Any]:
    try:
        stamp = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnusableJournalError("not JSON") from error
    if not isinstance(stamp, dict):
        raise UnusableJournalError("not a JSON object")
    return stamp


def _checksum(body: Any) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class Journal:
    """The file in the run directory, written by one thread, so in the order of the calls."""

    def __init__(self, directory: Path, boot_id: str) -> None:
        self._path = directory / NAME
        self.boot_id = boot_id
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")

    async def read(self) -> Memory:
        """Return the memory of this boot; an empty one if there is none that can be used."""
        return await self._run(self._read)

    async def write(self, memory: Memory) -> None:
        """Make the memory durable. Raises TransientError; the journal is then as before."""
        content = encode(memory, self.boot_id)
        try:
            await self._run(lambda: _replace(self._path, content))
        except OSError as error:
            message = f"cannot write {self._path}: {error.strerror}; make room in its file system"
            raise TransientError(message, reason="JournalNotWritten") from error

    def close(self) -> None:
        """Give back the thread; a write in progress is finished first."""
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _read(self) -> Memory:
        try:
            return decode(self._path.read_bytes(), self.boot_id)
        except FileNotFoundError:
            return Memory()
        except (UnusableJournalError, OSError) as error:
            self._move_aside(str(error))
            return Memory()

    def _move_aside(self, why: str) -> None:
        aside = self._path.with_name(ASIDE)
        log(logger, logging.WARNING, "journal not used", why=why, moved_to=str(aside))
        try:
            self._path.replace(aside)
        except OSError as error:
            log(logger, logging.WARNING, "journal not moved aside", error=error.strerror)


def _replace(path: Path, content: bytes) -> None:
    """Replace a file so that after a crash it is either the old one or the new one."""
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
