"""The daemon's state in memory, and its copy in the journal."""

import asyncio
import logging
from dataclasses import replace

from kmm_common.desired import DesiredModule, ModuleRef, content_hash
from kmm_common.errors import TransientError
from kmm_common.logs import log
from kmm_daemon.acceptance import accepted, left_after
from kmm_daemon.journal import Journal, Memory
from kmm_daemon.situation import (
    BegunLoad,
    FailedStep,
    PreparedImage,
    Situation,
    begun_unload,
    left_by,
    own_name,
)
from kmm_daemon.values import DesiredUpdate, KernelView, LoadedRecord, NeedsSnapshot, NodeDesired

logger = logging.getLogger(__name__)


class State:
    """Changed only between two awaits; written down under a lock, so in the order of changes."""

    def __init__(self, journal: Journal) -> None:
        self.boot_id = journal.boot_id
        self.desired: NodeDesired | None = None
        self.records: dict[ModuleRef, LoadedRecord] = {}
        self.begun: dict[ModuleRef, BegunLoad] = {}
        self.images: dict[ModuleRef, PreparedImage] = {}
        self.failures: dict[ModuleRef, FailedStep] = {}
        self.leaving: set[ModuleRef] = set()
        """Whose unload has begun: the journal says that their records may be true no longer."""
        self.unwritten = False
        """The journal could not take the newest change: the next round tries again."""
        self._left: tuple[str, ...] = ()
        self._journal = journal
        self._writing = asyncio.Lock()

    @property
    def modules(self) -> dict[ModuleRef, DesiredModule]:
        return dict(self.desired.modules) if self.desired else {}

    @property
    def content_hash(self) -> bytes:
        return content_hash(self.desired.modules.values()) if self.desired else b""

    def entry(self, ref: ModuleRef) -> DesiredModule | None:
        """Return what is desired of a Module; None if it is to go."""
        return self.desired.modules.get(ref) if self.desired else None

    def unaccounted(self) -> frozenset[str]:
        """Return the kernel modules that somebody else may have loaded with other parameters."""
        missing = (self.modules[ref] for ref in self.modules.keys() - self.records.keys())
        return frozenset(own_name(entry) for entry in missing if entry.modprobe.parameters)

    def situation(self, view: KernelView, now: float) -> Situation:
        """Return a copy for pure decisions."""
        return Situation(
            desired=self.modules,
            view=view,
            records=dict(self.records),
            begun=dict(self.begun),
            images=dict(self.images),
            failures=dict(self.failures),
            now=now,
        )

    def forget_outdated(self, view: KernelView, busy: frozenset[ModuleRef]) -> None:
        """Drop images and failures of older entries, and begun loads that left nothing.

        Of a Module that is to go, an unload tidies up behind a begun load.
        """
        for ref, image in list(self.images.items()):
            if image.entry != self.entry(ref):
                del self.images[ref]
        for ref, failed in list(self.failures.items()):
            if failed.entry != self.entry(ref):
                del self.failures[ref]
        for ref, begun in list(self.begun.items()):
            if ref in self.modules and ref not in busy and not left_by(begun, view).kernel_modules:
                del self.begun[ref]
                self.unwritten = True

    async def restore(self) -> None:
        """Take over what the journal of this boot says; failed steps are due at once."""
        memory = await self._journal.read()
        if memory.uid:
            modules = {module.ref: module for module in memory.modules}
            self.desired = NodeDesired(
                uid=memory.uid, generation=memory.generation, modules=modules
            )
        self._left = memory.left
        self.records = {record.module.ref: record for record in memory.records}
        self.begun = {begun.module.ref: begun for begun in memory.begun}
        due = (replace(failed, retry=True, retry_at=0.0) for failed in memory.failures)
        self.failures = {failed.entry.ref: failed for failed in due if failed.entry}

    async def accept(self, update: DesiredUpdate) -> NodeDesired | NeedsSnapshot:
        """Take an update, durably. Raises TransientError if it cannot be written down."""
        async with self._writing:
            new = accepted(update, self.desired, self._left)
            if isinstance(new, NeedsSnapshot) or new == self.desired:
                return new
            left = left_after(self.desired, new, self._left)
            await self._journal.write(self._memory(new, left))
            self.desired, self._left = new, left
            return new

    async def secure(self) -> None:
        """Write the state down. Raises TransientError if that is not possible."""
        async with self._writing:
            self.unwritten = True
            await self._journal.write(self._memory(self.desired, self._left))
            self.unwritten = False

    async def write(self) -> None:
        """Write the state down; if that is not possible, it stays to be done."""
        try:
            await self.secure()
        except TransientError as error:
            log(logger, logging.WARNING, "journal not written", error=str(error))

    def _memory(self, desired: NodeDesired | None, left: tuple[str, ...]) -> Memory:
        leaving = {
            ref: begun_unload(self.records[ref]) for ref in self.leaving & self.records.keys()
        }
        return Memory(
            uid=desired.uid if desired else "",
            generation=desired.generation if desired else 0,
            modules=tuple(desired.modules.values()) if desired else (),
            left=left,
            records=tuple(record for ref, record in self.records.items() if ref not in leaving),
            begun=tuple({**self.begun, **leaving}.values()),
            failures=tuple(failed for failed in self.failures.values() if failed.entry),
        )
