"""A simulated node: a kernel that keeps state, and the images that its modules come from.

Both stand behind the daemon's own ports, so that agent, plan, journal and link are the real ones.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModuleFailure, ModuleRef
from kmm_daemon.values import (
    KernelModule,
    KernelView,
    LoadedRecord,
    Process,
    ReadyImage,
    StepError,
    kernel_name,
)

KERNEL = "6.1.176"
PID = 812
"""Of every process that does not end."""


@dataclass(frozen=True, slots=True)
class SimFile:
    """A module file in an image."""

    build: str = ""
    depends: tuple[str, ...] = ()


def failure(reason: Reason, message: str = "refused on demand", *, retry: bool = True) -> StepError:
    """Return what a port raises; the exit code is modprobe's only one."""
    return StepError(ModuleFailure(reason=reason, message=message, exit_code=1), retry=retry)


class SimImages:
    """An image store; an image without known files holds one file named as the Module asks."""

    def __init__(self) -> None:
        self.files: dict[str, Mapping[str, SimFile]] = {}
        """By digest."""
        self.digests: dict[str, str] = {}
        """What a reference without a digest stands for."""
        self.failing: dict[ModuleRef, deque[StepError]] = {}
        self.gates: dict[ModuleRef, asyncio.Event] = {}
        """A pull waits until its gate is open."""
        self.pulls: list[ModuleRef] = []
        self.cancelled: list[ModuleRef] = []

    async def prepare(self, module: DesiredModule) -> ReadyImage:
        self.pulls.append(module.ref)
        if gate := self.gates.get(module.ref):
            try:
                await gate.wait()
            except asyncio.CancelledError:
                self.cancelled.append(module.ref)
                raise
        if failing := self.failing.get(module.ref):
            raise failing.popleft()
        digest = module.image_digest or self.digests.get(module.image, f"sha256:{module.image}")
        return ReadyImage(digest=digest, root=Path("/sim") / digest)

    def content(self, module: DesiredModule, image: ReadyImage) -> Mapping[str, SimFile]:
        """Return the files of an image by kernel_name."""
        own = kernel_name(module.modprobe.module_name)
        return self.files.get(image.digest, {own: SimFile(build=image.digest[-8:])})


class Interrupted(StrEnum):
    """Where in a load the daemon's end comes."""

    BEFORE = "before the first kernel module"
    BETWEEN = "between the dependencies and the Module's own module"
    AFTER = "after the last one, as modprobe may go on by itself"


@dataclass(slots=True)
class SimKernel:
    """A kernel; what it did is in `calls`, as (what, ref)."""

    images: SimImages = field(default_factory=SimImages)
    boot_id: str = "boot-1"
    kernel_version: str = KERNEL
    rows: dict[str, KernelModule] = field(default_factory=dict)
    parameters: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of the loaded modules, by kernel_name."""
    busy: set[str] = field(default_factory=set)
    """kernel_names that somebody has open."""
    failing: dict[ModuleRef, deque[StepError]] = field(default_factory=dict)
    """What the next loads of a Module raise, before they touch anything."""
    refusing: dict[ModuleRef, StepError] = field(default_factory=dict)
    """What is known before a load to forbid it."""
    late: dict[ModuleRef, StepError] = field(default_factory=dict)
    """What the next load of a Module raises although the module comes in."""
    gates: dict[ModuleRef, asyncio.Event] = field(default_factory=dict)
    """A load waits until its gate is open."""
    stuck: dict[ModuleRef, str] = field(default_factory=dict)
    """In whose init the next process of a Module waits, or in its exit if it takes it out.

    "" is for one that shows nothing in /proc/modules.
    """
    at_work: dict[ModuleRef, Process] = field(default_factory=dict)
    piled_up: list[tuple[ModuleRef, Process]] = field(default_factory=list)
    """Whose process was started beside another one that works on the same kernel modules."""
    firmware: set[ModuleRef] = field(default_factory=set)
    """Whose firmware is on the host; it outlives the boot."""
    left: set[str] = field(default_factory=set)
    """Dependencies that an unload found open, and left as modprobe -r does: whose they are now is
    for whoever holds them."""
    interrupted: Interrupted = Interrupted.BEFORE
    """How far a load gets that the daemon's end interrupts."""
    warnings: dict[ModuleRef, str] = field(default_factory=dict)
    """What a load that succeeds makes known."""
    calls: list[tuple[str, ModuleRef]] = field(default_factory=list)

    async def view(self, parameters_of: frozenset[str] = frozenset()) -> KernelView:
        rows = {
            name: replace(row, parameters=self._shown(name)) if name in parameters_of else row
            for name, row in self.rows.items()
        }
        return KernelView(
            boot_id=self.boot_id,
            kernel_version=self.kernel_version,
            modules=rows,
            at_work=dict(self.at_work),
        )

    def _shown(self, name: str) -> dict[str, str]:
        pairs = (word.partition("=") for word in self.parameters.get(name, ()))
        return {key: value for key, _, value in pairs}

    async def inspect(self, module: DesiredModule, image: ReadyImage) -> Mapping[str, str]:
        content = self.images.content(module, image)
        return {
            name: content[name].build
            for name in _closure(kernel_name(module.modprobe.module_name), content)
        }

    async def load(self, module: DesiredModule, image: ReadyImage) -> LoadedRecord:
        self.calls.append(("load", module.ref))
        content = self.images.content(module, image)
        self._note_pile(module.ref, _closure(kernel_name(module.modprobe.module_name), content))
        if module.ref in self.stuck:
            self._stick_in_load(module, content)
        if gate := self.gates.get(module.ref):
            await self._pass(gate, module, image)
        self._require_end(module.ref)
        if failing := self.failing.get(module.ref):
            raise failing.popleft()
        for name in map(kernel_name, module.in_tree_modules_to_remove):
            self._take_out(name)
        if module.modprobe.firmware_path:
            self.firmware.add(module.ref)
        brought = self._bring(module, self.images.content(module, image))
        if late := self.late.pop(module.ref, None):
            raise late
        return LoadedRecord(
            module=module,
            kernel_modules=brought,
            builds={name: v for name in brought if (v := self.rows[name].build)},
            warning=self.warnings.get(module.ref, ""),
        )

    async def adopt(self, module: DesiredModule, image: ReadyImage) -> None:
        if refusal := self.refusing.get(module.ref):
            raise refusal
        if module.modprobe.firmware_path:
            self.firmware.add(module.ref)

    async def check(self, module: DesiredModule, image: ReadyImage, going: frozenset[str]) -> None:
        if refusal := self.refusing.get(module.ref):
            raise refusal

    async def unload(self, record: LoadedRecord, keep: frozenset[str]) -> None:
        self.calls.append(("unload", record.module.ref))
        self._note_pile(record.module.ref, record.kernel_modules)
        self._stick_in_unload(record)
        self._require_end(record.module.ref)
        for position, name in enumerate(record.kernel_modules):
            if name in keep or name not in self.rows:
                continue
            if position == 0:
                self._take_out(name)
            elif name in self.busy:
                self.left.add(name)
            elif not self.rows[name].holders:
                del self.rows[name]
                self._drop_holder(name)

        self.firmware.discard(record.module.ref)

    async def keep_firmware_of(self, refs: frozenset[ModuleRef]) -> None:
        self.firmware &= refs

    def reboot(self, boot_id: str) -> None:
        """Lose everything that a reboot loses."""
        self.boot_id = boot_id
        for memory in (self.rows, self.parameters, self.busy, self.stuck, self.at_work):
            memory.clear()

    def end(self, ref: ModuleRef, *, live: bool) -> None:
        """Let a stuck process end; the module in which it waits stays, or goes."""
        process = self.at_work.pop(ref)
        for row in [self.rows[name] for name in process.names if name in self.rows]:
            if row.state != "Live" and live:
                self.rows[row.name] = replace(row, state="Live")
            elif row.state != "Live":
                self._delete(row.name)

    def insmod(self, name: str, build: str = "elsewhere") -> None:
        """Load a module as somebody else would."""
        self.rows[name] = KernelModule(name=name, build=build)

    def rmmod(self, name: str) -> None:
        """Take a module out as somebody else would."""
        self._take_out(name)

    def loads(self, ref: ModuleRef) -> int:
        """Return how often modprobe was asked to load a Module."""
        return self.calls.count(("load", ref))

    def unloads(self, ref: ModuleRef) -> int:
        """Return how often modprobe was asked to unload a Module."""
        return self.calls.count(("unload", ref))

    def _stick_in_load(self, module: DesiredModule, content: Mapping[str, SimFile]) -> None:
        own, hangs = kernel_name(module.modprobe.module_name), self.stuck.pop(module.ref)
        if hangs in self.rows:
            hangs = own
        if hangs:
            self._insert(_closure(hangs, content), content)
            self.rows[hangs] = replace(self.rows[hangs], state="Loading")
        if hangs == own:
            self.parameters[own] = module.modprobe.parameters
        self._leave(module.ref, "modprobe", _closure(own, content))

    def _stick_in_unload(self, record: LoadedRecord) -> None:
        ref, name = record.module.ref, next(iter(record.kernel_modules), "")
        row = self.rows.get(name)
        if ref in self.stuck and row and not row.holders and name not in self.busy:
            del self.stuck[ref]
            self.rows[name] = replace(row, state="Unloading")
            self._leave(ref, "rmmod", [name])

    def _leave(self, ref: ModuleRef, program: str, names: Sequence[str]) -> None:
        self.at_work[ref] = Process(ref=ref, pid=PID, program=program, names=tuple(names))

    def _note_pile(self, ref: ModuleRef, names: Iterable[str]) -> None:
        for process in self.at_work.values():
            if process.ref == ref or set(names).intersection(process.names):
                self.piled_up.append((ref, process))

    def _require_end(self, ref: ModuleRef) -> None:
        if ref in self.at_work:
            raise failure(Reason.STILL_RUNNING, f"{self.at_work[ref]} has not ended")

    async def _pass(self, gate: asyncio.Event, module: DesiredModule, image: ReadyImage) -> None:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            if self.interrupted is not Interrupted.BEFORE:
                self._bring(module, self.images.content(module, image))
            if self.interrupted is Interrupted.BETWEEN:
                self._take_out(kernel_name(module.modprobe.module_name))
            raise

    def _bring(self, module: DesiredModule, content: Mapping[str, SimFile]) -> tuple[str, ...]:
        own = kernel_name(module.modprobe.module_name)
        if own not in content:
            raise failure(Reason.MODULE_NOT_FOUND, f"Module {own} not found", retry=False)
        missing = self._insert(_closure(own, content), content)
        if own in missing:
            self.parameters[own] = module.modprobe.parameters
        return tuple(missing)

    def _insert(self, names: Sequence[str], content: Mapping[str, SimFile]) -> list[str]:
        """Put in what is not there of these; return it."""
        missing = [name for name in names if name not in self.rows]
        for name in missing:
            self.rows[name] = KernelModule(name=name, build=content[name].build)
        for name in missing:
            for below in content[name].depends:
                self._add_holder(below, name)
        return missing

    def _take_out(self, name: str) -> None:
        row = self.rows.get(name)
        if row is None:
            return
        if row.holders or name in self.busy:
            by = ", ".join(row.holders) or "an open file"
            raise failure(Reason.IN_USE, f"{name} is in use by {by}")
        self._delete(name)

    def _delete(self, name: str) -> None:
        del self.rows[name]
        self.parameters.pop(name, None)
        self._drop_holder(name)

    def _add_holder(self, name: str, holder: str) -> None:
        row = self.rows[name]
        holders = (*row.holders, holder)
        self.rows[name] = replace(row, holders=holders, refcount=len(holders))

    def _drop_holder(self, holder: str) -> None:
        for name, row in self.rows.items():
            holders = tuple(other for other in row.holders if other != holder)
            self.rows[name] = replace(row, holders=holders, refcount=len(holders))


def _closure(name: str, content: Mapping[str, SimFile]) -> list[str]:
    """Return a module and all it stands on that the image has, itself first."""
    found = [name] if name in content else []
    for one in found:
        for below in content[one].depends:
            if below in content and below not in found:
                found.append(below)
    return found
