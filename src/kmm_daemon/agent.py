"""The agent: desired state in, steps carried out, reports out."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kmm_common.api.names import Reason
from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.desired import DesiredModule, ModuleFailure, ModuleRef
from kmm_common.errors import KmmError, TerminalError
from kmm_common.logs import Fact, log
from kmm_daemon import report
from kmm_daemon.executor import Action, Executor
from kmm_daemon.journal import Journal
from kmm_daemon.metrics import Metrics
from kmm_daemon.plan import plan
from kmm_daemon.situation import FailedStep, Situation, in_kernel
from kmm_daemon.state import State
from kmm_daemon.steps import Adopt, Load, Prepare, Refuse, Reload, Rest, Step, Unload, Wait, touched
from kmm_daemon.values import (
    Accepted,
    DesiredUpdate,
    Hello,
    Images,
    Kernel,
    KernelView,
    NeedsSnapshot,
    NodeDesired,
    Process,
    StateReport,
    StepError,
)

logger = logging.getLogger(__name__)

Steps = dict[ModuleRef, Step]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the agent looks and tries again, in seconds."""

    drift_check: float = 30.0
    """Between two looks at the kernel when nothing else happens; at most 60."""
    busy_check: float = 1.0
    """Between two looks while the kernel works on a module by itself."""
    retry: Backoff = field(default_factory=lambda: Backoff(10.0, 600.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    step: Action
    task: asyncio.Task[None]


class Agent:
    """Plans anew after every change and every step; one task for each Module that has a step."""

    def __init__(
        self,
        *,
        images: Images,
        kernel: Kernel,
        journal: Journal,
        clock: Clock,
        metrics: Metrics,
        pace: Pace | None = None,
    ) -> None:
        self.reports = report.Reports()
        self._kernel = kernel
        self._clock = clock
        self._metrics = metrics
        self._pace = pace or Pace()
        self._state = State(journal)
        self._executor = Executor(
            images=images, kernel=kernel, state=self._state, metrics=metrics, clock=clock
        )
        self._running: dict[ModuleRef, _Running] = {}
        self._vanished: frozenset[ModuleRef] = frozenset()
        self._unended: Mapping[ModuleRef, Process] = {}
        self._ended = 0
        self._stale_firmware = False
        """Files of Modules that are desired no more may be on the host."""
        self._heard = False
        """The control plane has said since the start what is desired."""
        self._wake = asyncio.Event()
        self._view = KernelView(boot_id="", kernel_version="")

    def keep(self, pace: Pace) -> None:
        """Go at another pace from the next wait on."""
        self._pace = pace

    async def start(self) -> None:
        """Take over the journal and report what is; nothing is touched before run()."""
        await self._state.restore()
        if self._state.desired:
            self._note_accepted(self._state.desired)
        await self._look()
        self._publish(self._situation(), self._steps(self._situation()))

    async def run(self) -> None:
        """Bring the node to what is desired, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                await self._pause(await self._round(tasks))

    def hello(self) -> Hello:
        """Return what a session is opened with."""
        desired = self._state.desired
        return Hello(
            boot_id=self._view.boot_id,
            kernel_version=self._view.kernel_version,
            uid=desired.uid if desired else "",
            generation=desired.generation if desired else 0,
            content_hash=self._state.content_hash,
            state=self.reports.latest,
        )

    def needed(self) -> tuple[DesiredModule, ...]:
        """Return the entries whose images must stay: what is desired and what is loaded."""
        loaded = (record.module for record in self._state.records.values())
        return (*self._state.modules.values(), *loaded)

    async def accept(self, update: DesiredUpdate) -> Accepted | NeedsSnapshot:
        """Take an update; on return it is durable. Raises TransientError if that is impossible."""
        before = self._state.desired
        new = await self._state.accept(update)
        if isinstance(new, NeedsSnapshot):
            log(logger, logging.WARNING, "update not used", uid=update.uid, reason=new.reason)
            return new
        if not self._heard:
            self._heard = self._stale_firmware = True
            self._wake.set()
        if before and before.modules.keys() - new.modules.keys():
            # Of one that was never loaded nothing else would remove it: there is no unload.
            self._stale_firmware = True
        if new != before:
            self._note_accepted(new)
            self._wake.set()
        return Accepted(uid=new.uid, generation=new.generation)

    def _note_accepted(self, desired: NodeDesired) -> None:
        """Say what holds from now on; a start says it again, as a crash may have kept it silent."""
        fields = {"uid": desired.uid, "generation": desired.generation}
        log(logger, logging.INFO, Fact.ACCEPTED, **fields, boot_id=self._state.boot_id)
        self._metrics.generation(desired.generation)

    async def _round(self, tasks: asyncio.TaskGroup) -> float:
        """Look, plan, start what can start, report; return the seconds until the next round."""
        if self._state.unwritten:
            await self._state.write()
        try:
            await self._look()
        except KmmError as error:
            log(logger, logging.ERROR, "kernel cannot be read", error=str(error))
            return self._pace.busy_check
        busy = self._running.keys() | self._view.at_work.keys()
        self._state.forget_outdated(self._view, frozenset(busy))
        if self._stale_firmware:
            await self._clear_firmware()
        s = self._situation()
        steps = self._steps(s)
        self._note_vanished(s)
        self._note_unended(s.view.at_work)
        self._supersede()
        self._start_steps(steps, tasks)
        self._publish(s, steps)
        return self._next_look(steps)

    async def _look(self) -> None:
        """Read the kernel; again if a step ended meanwhile, which the reading may have missed."""
        ended = -1
        while ended != self._ended:
            ended = self._ended
            self._view = await self._kernel.view(self._state.unaccounted())

    async def _clear_firmware(self) -> None:
        """Remove firmware of Modules that went without an unload; unloads remove their own."""
        state = self._state
        users = (state.modules, state.records, state.begun, self._running)
        try:
            await self._kernel.keep_firmware_of(frozenset(ref for refs in users for ref in refs))
            self._stale_firmware = False
        except StepError as error:
            log(logger, logging.WARNING, "old firmware not removed", error=str(error))

    def _situation(self) -> Situation:
        """Return what is known; a process that a running step waits for is that step's business."""
        at_work = self._view.at_work
        left = {ref: at_work[ref] for ref in at_work.keys() - self._running.keys()}
        return self._state.situation(replace(self._view, at_work=left), self._clock.monotonic())

    def _steps(self, s: Situation) -> Steps:
        return {step.ref: step for step in plan(s)} if self._state.desired else {}

    def _supersede(self) -> None:
        """Stop pulls that nobody desires any more; what reached the kernel runs to its end."""
        for ref, running in self._running.items():
            step, task = running.step, running.task
            outdated = isinstance(step, Prepare) and step.entry != self._state.entry(ref)
            if outdated and not task.cancelling():
                task.cancel()

    def _start_steps(self, steps: Steps, tasks: asyncio.TaskGroup) -> None:
        """Start every step that is due; those that touch the same kernel modules, in order."""
        taken: set[str] = set()
        for running in self._running.values():
            taken |= _touched(running.step)
        for ref, step in steps.items():
            if ref in self._running or isinstance(step, Rest | Refuse | Wait):
                continue
            names = _touched(step)
            if not taken & names:
                task = tasks.create_task(self._carry_out(step), name=f"module {ref}")
                self._running[ref] = _Running(step=step, task=task)
            taken |= names

    async def _carry_out(self, step: Action) -> None:
        try:
            await self._executor.carry_out(step)
        except KmmError as error:
            await self._failed(step, _failure(error), retry=_retry(error))
        except Exception as error:
            logger.exception("step broke")
            await self._failed(step, _broken(step, error), retry=True)
        finally:
            del self._running[step.ref]
            self._ended += 1
            self._wake.set()

    async def _failed(self, step: Action, failure: ModuleFailure, *, retry: bool) -> None:
        """Note a failure under what was to be carried out: it says nothing about other wishes."""
        entry, before = _entry(step), self._state.failures.get(step.ref)
        attempts = before.attempts + 1 if before and before.entry == entry else 1
        wait = self._pace.retry.delay(attempts)
        self._state.images.pop(step.ref, None)
        self._state.failures[step.ref] = FailedStep(
            entry=entry,
            failure=failure,
            attempts=attempts,
            retry=retry,
            retry_at=self._clock.monotonic() + wait,
            image_compared=isinstance(step, Load | Reload),
        )
        self._metrics.failure(failure.reason)
        fields = {"ref": str(step.ref), "reason": failure.reason, "attempts": attempts}
        retry_in = round(wait, 1) if retry else None
        log(logger, logging.WARNING, "step failed", **fields, retry_in=retry_in)
        await self._state.write()

    def _note_vanished(self, s: Situation) -> None:
        """Say once that somebody took a module out."""
        gone = frozenset(
            ref
            for ref, record in s.records.items()
            if ref not in self._running and ref in s.desired and not in_kernel(record, s.view)
        )
        for ref in sorted(gone - self._vanished):
            self._metrics.vanished()
            log(logger, logging.WARNING, "module vanished from the kernel", ref=str(ref))
        self._vanished = gone

    def _note_unended(self, at_work: Mapping[ModuleRef, Process]) -> None:
        """Say once that a process outlives its step, and once that it has ended after all."""
        self._metrics.unended(len(at_work))
        for ref in sorted(at_work.keys() - self._unended.keys()):
            log(logger, logging.WARNING, "process has not ended", **_about(at_work[ref]))
        for ref in sorted(self._unended.keys() - at_work.keys()):
            log(logger, logging.INFO, "process has ended", **_about(self._unended[ref]))
        self._unended = at_work

    def _publish(self, s: Situation, steps: Steps) -> None:
        """Put a report where the link finds it, if it says something new."""
        desired, before = self._state.desired, self.reports.latest
        if desired is None:
            return
        running: Steps = {ref: running.step for ref, running in self._running.items()}
        now_ms = int(self._clock.now().timestamp() * 1000)
        modules = report.since(report.report(s, steps, running), before.modules, now_ms)
        newest = replace(
            before,
            modules=modules,
            accepted_uid=desired.uid,
            accepted_generation=desired.generation,
        )
        if report.settled(steps, running):
            newest = replace(newest, uid=desired.uid, observed_generation=desired.generation)
        if newest != before:
            self._put(replace(newest, sequence=before.sequence + 1))

    def _put(self, newest: StateReport) -> None:
        self.reports.put(newest)
        self._metrics.modules(newest.modules)
        said = [
            {"ref": str(m.ref), "state": m.state, "in_kernel": m.in_kernel, "hash": m.config_hash}
            for m in newest.modules
        ]
        fields = {
            "sequence": newest.sequence,
            "uid": newest.uid,
            "generation": newest.observed_generation,
            "modules": said,
        }
        log(logger, logging.INFO, Fact.REPORTED, **fields)

    def _next_look(self, steps: Steps) -> float:
        waits = [step for step in steps.values() if isinstance(step, Wait)]
        now = self._clock.monotonic()
        held = (w.failed for w in waits if w.failed and not w.kernel)
        due = [failed.retry_at - now for failed in held if failed.retry]
        soon = [self._pace.busy_check] if any(w.kernel for w in waits) else []
        return min([self._pace.drift_check, *soon, *due])

    async def _pause(self, seconds: float) -> None:
        """Wait for news, at most so long."""
        async with asyncio.TaskGroup() as group:
            timer = group.create_task(self._ring(seconds), name="agent timer")
            await self._wake.wait()
            timer.cancel()

    async def _ring(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._wake.set()


def _about(process: Process) -> dict[str, object]:
    return {"ref": str(process.ref), "pid": process.pid, "program": process.program}


def _touched(step: Action) -> frozenset[str]:
    return touched(step) if isinstance(step, Load | Reload | Unload) else frozenset()


def _entry(step: Action) -> DesiredModule | None:
    match step:
        case Prepare(entry=entry):
            return entry
        case Load(image=image) | Reload(image=image):
            return image.entry
        case Adopt(image=prepared):
            return prepared.entry if prepared else None
        case Unload():
            return None


def _failure(error: KmmError) -> ModuleFailure:
    if isinstance(error, StepError):
        return error.failure
    return ModuleFailure(reason=error.reason, message=str(error))


def _retry(error: KmmError) -> bool:
    return error.retry if isinstance(error, StepError) else not isinstance(error, TerminalError)


def _broken(step: Action, error: Exception) -> ModuleFailure:
    pulling = isinstance(step, Prepare)
    reason = Reason.IMAGE_PULL_FAILED if pulling else Reason.MODPROBE_FAILED
    message = f"unexpected {type(error).__name__} in the daemon: see its log"
    return ModuleFailure(reason=reason, message=message)
