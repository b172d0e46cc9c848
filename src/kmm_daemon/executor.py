"""Carries out one step at a time for a Module and notes in the state what came of it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from kmm_common.api.names import Reason
from kmm_common.clock import Clock
from kmm_common.desired import DesiredModule, ModuleFailure, ModuleRef, config_hash
from kmm_common.errors import TransientError
from kmm_common.logs import Fact, log
from kmm_daemon.footprint import extended, inherited
from kmm_daemon.metrics import Metrics
from kmm_daemon.situation import PreparedImage, begun_load, begun_unload
from kmm_daemon.state import State
from kmm_daemon.steps import Adopt, Load, Prepare, Reload, Unload
from kmm_daemon.values import Images, Kernel, LoadedRecord, StepError

logger = logging.getLogger(__name__)

Action = Adopt | Prepare | Load | Reload | Unload


class Executor:
    """The hands of the agent; every method raises StepError where its step fails."""

    def __init__(
        self, *, images: Images, kernel: Kernel, state: State, metrics: Metrics, clock: Clock
    ) -> None:
        self._images = images
        self._kernel = kernel
        self._state = state
        self._metrics = metrics
        self._clock = clock

    async def carry_out(self, step: Action) -> None:
        """Do what a step says; the next plan sees the result."""
        match step:
            case Prepare(entry=entry):
                await self._prepare(entry)
            case Adopt(ref=ref, record=record, image=image):
                if image:
                    await self._kernel.adopt(image.module, image.image)
                await self._adopt(ref, record)
            case Load(image=image, older=older):
                await self._load(image, older)
            case Reload(image=image, record=record, keep=keep):
                going = frozenset(record.kernel_modules) - keep
                await self._kernel.check(image.module, image.image, going)
                await self._unload(record, keep)
                await self._load_if_still_desired(image)
            case Unload(record=record, keep=keep):
                await self._unload(record, keep)

    async def _prepare(self, entry: DesiredModule) -> None:
        image = await self._images.prepare(entry)
        resolved = replace(entry, image_digest=image.digest)
        builds = await self._kernel.inspect(resolved, image)
        if self._state.entry(entry.ref) == entry:
            prepared = PreparedImage(entry=entry, image=image, builds=dict(builds))
            self._state.images[entry.ref] = prepared

    async def _adopt(self, ref: ModuleRef, record: LoadedRecord) -> None:
        log(logger, logging.INFO, "module adopted", ref=str(ref), digest=record.module.image_digest)
        self._settle(ref, self._with_inheritance(ref, record))
        await self._state.write()

    async def _load_if_still_desired(self, image: PreparedImage) -> None:
        if self._state.entry(image.entry.ref) == image.entry:
            await self._load(image, None)

    async def _load(self, image: PreparedImage, older: LoadedRecord | None) -> None:
        ref, module = image.entry.ref, image.module
        view = await self._kernel.view()
        self._state.begun[ref] = begun_load(image, view, self._state.begun.get(ref))
        await self._secure()
        with self._told("load", module):
            record = await self._kernel.load(module, image.image)
        record = replace(record, module=module)
        self._settle(ref, await self._with_leftovers(record, older) if older else record)
        await self._state.write()

    async def _with_leftovers(self, record: LoadedRecord, older: LoadedRecord) -> LoadedRecord:
        """What came for the Module before is still to be taken out with it."""
        view = await self._kernel.view()
        return extended(record, older, filter(view.modules.__contains__, older.kernel_modules))

    def _with_inheritance(self, ref: ModuleRef, record: LoadedRecord) -> LoadedRecord:
        """Add what an unload beside has left to this Module since the step was planned."""
        newest = self._state.records.get(ref, record)
        return extended(record, newest, newest.kernel_modules)

    async def _unload(self, planned: LoadedRecord, keep: frozenset[str]) -> None:
        ref = planned.module.ref
        record = self._with_inheritance(ref, planned)
        with self._leaving(ref):
            await self._state.write()
            with self._told("unload", record.module), self._unended(record):
                await self._kernel.unload(record, keep)
            view = await self._kernel.view()
        self._state.records.pop(ref, None)
        self._state.begun.pop(ref, None)
        self._state.failures.pop(ref, None)
        self._state.records.update(inherited(record, self._state.records, view))
        await self._state.write()

    async def _secure(self) -> None:
        """Nothing reaches the kernel before the journal says that it is about to."""
        try:
            await self._state.secure()
        except TransientError as error:
            failure = ModuleFailure(reason=Reason.DISK_FULL, message=str(error))
            raise StepError(failure) from error

    def _settle(self, ref: ModuleRef, record: LoadedRecord) -> None:
        self._state.records[ref] = record
        for other in (self._state.begun, self._state.failures, self._state.images):
            other.pop(ref, None)

    @contextmanager
    def _leaving(self, ref: ModuleRef) -> Iterator[None]:
        """Have the journal say that what becomes of a record from now on is this daemon's work."""
        self._state.leaving.add(ref)
        try:
            yield
        finally:
            self._state.leaving.discard(ref)

    @contextmanager
    def _unended(self, record: LoadedRecord) -> Iterator[None]:
        """Know no longer what is there of a record where an unload has not ended: it may go yet."""
        try:
            yield
        except StepError as error:
            if error.reason == Reason.STILL_RUNNING:
                self._state.records.pop(record.module.ref, None)
                self._state.begun[record.module.ref] = begun_unload(record)
            raise

    @contextmanager
    def _told(self, kind: str, module: DesiredModule) -> Iterator[None]:
        """Log and count the start and the end of what touches the kernel."""
        fields = self._fields(kind, module)
        log(logger, logging.INFO, Fact.STEP_STARTED, **fields)
        start, ok, reason = self._clock.monotonic(), False, "Interrupted"
        try:
            yield
            ok, reason = True, ""
        except StepError as error:
            reason = error.reason
            raise
        finally:
            self._metrics.step(kind, self._clock.monotonic() - start, ok=ok)
            log(logger, logging.INFO, Fact.STEP_ENDED, **fields, ok=ok, reason=reason)

    def _fields(self, kind: str, module: DesiredModule) -> dict[str, object]:
        desired = self._state.desired
        return {
            "step": kind,
            "ref": str(module.ref),
            "uid": desired.uid if desired else "",
            "generation": desired.generation if desired else 0,
            "digest": module.image_digest,
            "hash": config_hash(module),
            "boot_id": self._state.boot_id,
        }
