"""Builders of desired state, and a node whose agent is real and whose kernel is simulated."""

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from kmm_common.backoff import Backoff
from kmm_common.desired import (
    DesiredModule,
    Modprobe,
    ModuleRef,
    ReportedModule,
    config_hash,
    content_hash,
)
from kmm_daemon.agent import Agent, Pace
from kmm_daemon.journal import Journal, Memory, UnusableJournalError, decode, encode
from kmm_daemon.metrics import Metrics
from kmm_daemon.values import Accepted, DesiredUpdate, NeedsSnapshot, UpdateKind
from support.simkernel import KERNEL, SimKernel
from support.virtualclock import VirtualClock, rest

UID = "nms-1"
PACE = Pace(retry=Backoff(10.0, 600.0, rng=random.Random(1)))  # noqa: S311 jitter, no secret


def desired(name: str = "m", *, digest: str = "sha256:aaaaaaaa", **fields: Any) -> DesiredModule:
    """Return an entry whose kernel module is named as the Module; keywords of Modprobe too."""
    probe = {key: fields.pop(key) for key in Modprobe.__slots__ if key in fields}
    entry = DesiredModule(
        namespace="ns",
        name=name,
        uid=f"uid-{name}",
        kernel_version=KERNEL,
        image=f"{name}:1",
        image_digest=digest,
        modprobe=replace(Modprobe(module_name=name), **probe),
    )
    changed = replace(entry, **fields)
    return replace(changed, config_hash=config_hash(changed))


def ref(name: str = "m") -> ModuleRef:
    return ModuleRef("ns", name)


def snapshot(
    generation: int, modules: Iterable[DesiredModule] = (), *, uid: str = UID
) -> DesiredUpdate:
    entries = tuple(modules)
    return DesiredUpdate(
        kind=UpdateKind.SNAPSHOT,
        uid=uid,
        generation=generation,
        upserts=entries,
        content_hash=content_hash(entries),
    )


class MemoryJournal(Journal):
    """The journal's bytes without a disk; `full` makes every write fail as a full one does."""

    def __init__(self, boot_id: str, content: bytes = b"") -> None:
        self.boot_id = boot_id
        self.content = content
        self.full: Exception | None = None

    async def read(self) -> Memory:
        try:
            return decode(self.content, self.boot_id)
        except UnusableJournalError:
            return Memory()

    async def write(self, memory: Memory) -> None:
        if self.full:
            raise self.full
        self.content = encode(memory, self.boot_id)


@dataclass(slots=True)
class Node:
    """One node over restarts of its daemon and reboots."""

    kernel: SimKernel = field(default_factory=SimKernel)
    clock: VirtualClock = field(default_factory=VirtualClock)
    journal: MemoryJournal = field(default_factory=lambda: MemoryJournal("boot-1"))
    generation: int = 0
    agent: Agent = field(init=False)
    metrics: Metrics = field(init=False)
    _task: asyncio.Task[None] | None = None

    async def start(self) -> "Node":
        self.metrics = Metrics(version="test")
        self.agent = Agent(
            images=self.kernel.images,
            kernel=self.kernel,
            journal=self.journal,
            clock=self.clock,
            metrics=self.metrics,
            pace=PACE,
        )
        await self.agent.start()
        self._task = asyncio.create_task(self.agent.run(), name="agent")
        await rest()
        return self

    async def stop(self) -> None:
        """End the daemon as SIGKILL would: nothing is tidied up."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def restart(self, *, journal: bool = True) -> None:
        await self.stop()
        self.journal = MemoryJournal(self.kernel.boot_id, self.journal.content if journal else b"")
        await self.start()

    async def reboot(self) -> None:
        await self.stop()
        self.kernel.reboot(f"boot-{int(self.kernel.boot_id.split('-')[1]) + 1}")
        await self.restart()

    async def want(self, *modules: DesiredModule) -> Accepted | NeedsSnapshot:
        """Send the next generation and let the node come to rest."""
        self.generation += 1
        return await self.send(snapshot(self.generation, modules))

    async def send(self, update: DesiredUpdate) -> Accepted | NeedsSnapshot:
        answer = await self.agent.accept(update)
        await rest()
        return answer

    def said(self, name: str = "m") -> ReportedModule | None:
        """Return what the newest report says about a Module; None if it omits it."""
        modules = self.agent.reports.latest.modules
        return next((module for module in modules if module.name == name), None)
