"""Firmware of a Module on the host: in before its module asks for it, out with its last user."""

import asyncio
import errno
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModuleFailure, ModuleRef
from kmm_common.logs import log
from kmm_daemon.kernel.argv import normalised
from kmm_daemon.kernel.ledger import Ledger, Placement, SearchPath, User, place, refs, release
from kmm_daemon.kernel.ledgerfile import LedgerFile, write_whole
from kmm_daemon.values import ReadyImage, StepError

logger = logging.getLogger(__name__)
T = TypeVar("T")

MOST_ENTRIES = 20_000
MOST_DEPTH = 32
KERNELS_OWN = (Path("/lib/firmware"), Path("/lib/firmware/updates"))
"""Where the kernel looks without being told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipment:
    """The firmware files of one Module's image."""

    ref: ModuleRef
    sources: Mapping[str, Path]
    """Files of the image by path below the firmware directory."""
    sha256: Mapping[str, str]


class Firmware:
    """The host's firmware directory, shared by the Modules of the node.

    `directory` has the same path on the host and in the daemon: the kernel reads it on the host.
    """

    def __init__(self, *, directory: Path, ledger: LedgerFile, search_path: Path) -> None:
        self._directory = directory
        self._ledger = ledger
        self._search_path = search_path
        self._lock = asyncio.Lock()

    async def scan(self, module: DesiredModule, image: ReadyImage) -> Shipment:
        """Return what an image ships. Raises StepError."""
        if not module.modprobe.firmware_path:
            return Shipment(ref=module.ref, sources={}, sha256={})
        return await self._run(lambda: _shipment(module, image))

    async def check(self, shipment: Shipment, boot_id: str) -> None:
        """Raise StepError, FirmwareConflict, if the files cannot go to the host; touch nothing."""
        if shipment.sources:
            await self._run(lambda: self._placement(self._ledger.read(), shipment, boot_id))

    async def install(self, shipment: Shipment, boot_id: str) -> None:
        """Write the files and tell the kernel where they are. Raises StepError."""
        if shipment.sources:
            await self._run(lambda: self._install(shipment, boot_id))

    async def remove(self, gone: frozenset[ModuleRef], boot_id: str) -> None:
        """Take away the files that only these Modules needed. Raises StepError."""
        await self._run(lambda: self._remove(gone, boot_id))

    async def keep_only(self, users: frozenset[ModuleRef], boot_id: str) -> None:
        """Take away what other Modules than these have left behind. Raises StepError."""
        await self._run(lambda: self._remove(refs(self._ledger.read()) - users, boot_id))

    async def _run(self, work: Callable[[], T]) -> T:
        async with self._lock:
            try:
                return await asyncio.to_thread(work)
            except OSError as error:
                raise StepError(_failure(error)) from error

    def _placement(self, ledger: Ledger, shipment: Shipment, boot_id: str) -> Placement:
        user = User(namespace=shipment.ref.namespace, name=shipment.ref.name, boot_id=boot_id)
        on_host = {path: self._digest(path) for path in shipment.sources}
        outcome = place(ledger, user, shipment.sha256, on_host)
        if isinstance(outcome, ModuleFailure):
            raise StepError(outcome)
        self._refuse_foreign_search_path()
        return outcome

    def _install(self, shipment: Shipment, boot_id: str) -> None:
        ledger = self._ledger.read()
        placement = self._placement(ledger, shipment, boot_id)
        for path in placement.replace:
            self._host(path).unlink(missing_ok=True)
        # The ledger first: a crash leaves no file of ours that is not in it.
        self._write_changed(ledger, placement.ledger)
        for path in placement.write:
            target = self._host(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, shipment.sources[path].read_bytes(), mode=0o644)
        self._point_kernel_here(placement.ledger, boot_id)

    def _remove(self, gone: frozenset[ModuleRef], boot_id: str) -> None:
        ledger = self._ledger.read()
        left, orphans = release(ledger, gone)
        for path, sha256 in orphans.items():
            self._remove_file(path, sha256)
        self._write_changed(ledger, self._give_back_search_path(left, boot_id))

    def _write_changed(self, old: Ledger, new: Ledger) -> None:
        if new != old:
            self._ledger.write(new)

    def _remove_file(self, path: str, sha256: str) -> None:
        """Remove a file that is still ours, and the directories that are empty then."""
        if self._digest(path) not in ("", sha256):
            log(logger, logging.WARNING, "firmware file changed by somebody else, left", path=path)
            return
        target = self._host(path)
        target.unlink(missing_ok=True)
        for directory in target.parents:
            if directory == self._directory or not _removed_if_empty(directory):
                break

    def _digest(self, path: str) -> str:
        """Return the SHA-256 of a file on the host, empty if there is none."""
        try:
            return _sha256(self._host(path))
        except FileNotFoundError:
            return ""

    def _host(self, path: str) -> Path:
        """Return where a file goes. Raises StepError where a link leads out of the directory."""
        target = self._directory / path
        if not target.parent.resolve().is_relative_to(self._directory.resolve()):
            message = f"{target.parent} leads out of {self._directory}: remove that link"
            raise StepError(_firmware_failure(message))
        return target

    def _current_search_path(self) -> str | None:
        """Return firmware_class.path; None where nothing has to be said to the kernel."""
        if self._directory in KERNELS_OWN or not self._search_path.exists():
            return None
        return self._search_path.read_text().strip()

    def _refuse_foreign_search_path(self) -> None:
        current = self._current_search_path()
        if current is None or _adds_nothing(current) or self._is_ours(current):
            return
        message = (
            f"the kernel looks for firmware in {current}, which somebody "
            f"else has set (firmware_class.path), not in {self._directory}: "
            "set the daemon's firmware directory to that, and mount it into its Pod"
        )
        raise StepError(_firmware_failure(message))

    def _is_ours(self, search_path: str) -> bool:
        return Path(search_path) == self._directory

    def _point_kernel_here(self, ledger: Ledger, boot_id: str) -> None:
        current = self._current_search_path()
        if current is None or not _adds_nothing(current):
            return
        mine = SearchPath(before=current, boot_id=boot_id)
        self._ledger.write(replace(ledger, search_path=mine))
        self._search_path.write_text(str(self._directory))
        if current:
            log(logger, logging.INFO, "firmware search path taken over", before=current)

    def _give_back_search_path(self, ledger: Ledger, boot_id: str) -> Ledger:
        mine = ledger.search_path
        if mine is None or ledger.files:
            return ledger
        if mine.boot_id == boot_id and self._is_ours(self._current_search_path() or ""):
            # The kernel takes no write of nothing: a NUL is an empty text.
            self._search_path.write_text(mine.before or "\0")
        return replace(ledger, search_path=None)


def _adds_nothing(search_path: str) -> bool:
    """Tell whether the kernel looks there without being told: upstream KMM says so all the same."""
    return not search_path or Path(search_path) in KERNELS_OWN


def _shipment(module: DesiredModule, image: ReadyImage) -> Shipment:
    inside = normalised(module.modprobe.firmware_path)
    top = image.root / inside.lstrip("/")
    if not top.is_dir():
        message = f"the image has no directory {inside}: correct modprobe.firmwarePath"
        raise StepError(_firmware_failure(message), retry=False)
    sources = _files(top, image.root.resolve())
    sha256 = {path: _sha256(source) for path, source in sources.items()}
    return Shipment(ref=module.ref, sources=sources, sha256=sha256)


def _files(top: Path, root: Path) -> dict[str, Path]:
    """Return the files below a directory; links are followed as far as they stay in the image."""
    found: dict[str, Path] = {}
    waiting = [("", top)]
    seen = 0
    while waiting:
        prefix, directory = waiting.pop()
        for entry in sorted(directory.iterdir()):
            # Not resolve(): that raises for a link to itself.
            path, actual = f"{prefix}{entry.name}", Path(os.path.realpath(entry))
            seen += 1
            _refuse_hostile(path, actual, root, seen)
            if actual.is_dir():
                waiting.append((f"{path}/", actual))
            elif actual.is_file():
                found[path] = actual
    return found


def _refuse_hostile(path: str, actual: Path, root: Path, seen: int) -> None:
    if not actual.is_relative_to(root):
        why = f"{path} links out of the image"
    elif seen > MOST_ENTRIES or path.count("/") > MOST_DEPTH:
        why = f"{path} is one too many, or links to itself"
    else:
        return
    message = f"firmwarePath of the image cannot be used: {why}"
    raise StepError(_firmware_failure(message), retry=False)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _removed_if_empty(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError:
        return False
    return True


def _failure(error: OSError) -> ModuleFailure:
    where = error.filename or "the firmware directory"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        message = f"no room for {where}: free space on that file system"
        return ModuleFailure(reason=Reason.DISK_FULL, message=message)
    remedy = ""
    if error.errno == errno.EROFS:
        remedy = ": set the daemon's firmware directory to a writable one, as /var/lib/firmware"
    return _firmware_failure(f"{where}: {os.strerror(error.errno or 0)}{remedy}")


def _firmware_failure(message: str) -> ModuleFailure:
    return ModuleFailure(reason=Reason.FIRMWARE_FAILED, message=message)
