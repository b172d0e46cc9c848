"""What the node says about its Modules: pure, and the cell that holds the newest report."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from kmm_common.api.names import Reason
from kmm_common.desired import (
    MESSAGE_BYTES,
    DesiredModule,
    ModuleFailure,
    ModuleRef,
    ModuleState,
    ReportedModule,
    config_hash,
    cut,
)
from kmm_daemon.builds import untold
from kmm_daemon.plan import standing
from kmm_daemon.situation import Situation, in_kernel, own_name
from kmm_daemon.steps import Adopt, Load, Prepare, Refuse, Reload, Rest, Step, Unload, Wait
from kmm_daemon.values import LoadedRecord, StateReport


def report(
    s: Situation, steps: Mapping[ModuleRef, Step], running: Mapping[ModuleRef, Step]
) -> tuple[ReportedModule, ...]:
    """Return the state of every Module that has a step, ordered; since_ms is not set yet.

    A pull that nobody desires any more is about to end and brought nothing: it is no state.
    """
    current = {**steps, **running}
    return tuple(
        _module(ref, s, step, runs=ref in running)
        for ref, step in sorted(current.items())
        if ref in s.desired or not isinstance(step, Prepare)
    )


def settled(steps: Mapping[ModuleRef, Step], running: Mapping[ModuleRef, Step]) -> bool:
    """Tell whether every step of the desired state is done or failed for good."""
    return not running and all(map(_final, steps.values()))


def since(
    modules: tuple[ReportedModule, ...], before: tuple[ReportedModule, ...], now_ms: int
) -> tuple[ReportedModule, ...]:
    """Return the modules with the time of their last change of state."""
    known = {(old.ref, old.uid, old.state): old.since_ms for old in before}
    return tuple(
        replace(new, since_ms=known.get((new.ref, new.uid, new.state), now_ms)) for new in modules
    )


class Reports:
    """Holds the newest report; who is slow sees only that one."""

    def __init__(self) -> None:
        self.latest = StateReport()
        self._changed = asyncio.Event()

    def put(self, newest: StateReport) -> None:
        """Replace the report and wake those who wait for it."""
        self.latest = newest
        self._changed.set()
        self._changed = asyncio.Event()

    async def newer_than(self, sequence: int) -> StateReport:
        """Return the newest report as soon as its sequence is above the given one."""
        while self.latest.sequence <= sequence:
            await self._changed.wait()
        return self.latest


def _final(step: Step) -> bool:
    match step:
        case Rest() | Refuse():
            return True
        case Wait(failed=failed):
            return failed is not None and not failed.retry
        case _:
            return False


def _retrying(step: Step) -> bool:
    return isinstance(step, Wait) and step.failed is not None and step.failed.retry


def _module(ref: ModuleRef, s: Situation, step: Step, *, runs: bool) -> ReportedModule:
    entry, record = s.desired.get(ref), standing(ref, s)
    inside = record is not None and in_kernel(record, s.view)
    state = _state(step, runs=runs, removal=entry is None)
    about = _about(ref, s, step, record if inside or entry is None else None)
    return ReportedModule(
        namespace=ref.namespace,
        name=ref.name,
        uid=entry.uid if entry else about.uid,
        state=state,
        in_kernel=inside or _unidentified(ref, s, step),
        image_digest=about.image_digest,
        config_hash=config_hash(about),
        attempts=failed.attempts if (failed := s.failure_of(ref)) else 0,
        error=None if state is ModuleState.LOADED else _error(ref, s, step),
        retrying=state is ModuleState.FAILED and _retrying(step),
        warning=_warning(record, s) if record and inside else "",
    )


def _unidentified(ref: ModuleRef, s: Situation, step: Step) -> bool:
    """Tell whether the kernel has a module of that name that only the image can tell from another.

    Another program has loaded it, or this daemon before its journal was lost. Until the image is
    there, also while pulls fail, nobody knows that it is not the Module's.
    """
    entry, failed = s.desired.get(ref), s.failure_of(ref)
    if entry is None or standing(ref, s) or (failed and failed.image_compared):
        return False
    row = s.view.modules.get(own_name(entry))
    return row is not None and row.state == "Live" and _leads_to_adoption(step)


def _leads_to_adoption(step: Step) -> bool:
    """Tell whether a step of a Module that has brought nothing may end in taking over what is."""
    match step:
        case Prepare() | Adopt():
            return True
        case Wait(failed=failed):
            return failed is not None
        case _:
            return False


def _warning(record: LoadedRecord, s: Situation) -> str:
    said = filter(None, (record.warning, untold(record, s.view)))
    return cut("; ".join(said), MESSAGE_BYTES)


def _about(ref: ModuleRef, s: Situation, step: Step, record: LoadedRecord | None) -> DesiredModule:
    """Return what is in the kernel; what is being brought there while nothing is."""
    if record is not None:
        return record.module
    # An unload that is done forgets its record a moment before it ends.
    if isinstance(step, Unload):
        return step.record.module
    # A load that is superseded before it has begun is known by its step only.
    if isinstance(step, Load | Reload) and ref not in s.desired and ref not in s.begun:
        return step.image.module
    entry = s.desired.get(ref)
    if entry is None:
        return s.begun[ref].module
    image = s.image_for(entry)
    return image.module if image else entry


def _state(step: Step, *, runs: bool, removal: bool) -> ModuleState:
    match step:
        case Rest() | Adopt(image=None):
            return ModuleState.LOADED
        case Refuse(state=state):
            return state
        case Wait(failed=failed) if failed:
            return ModuleState.FAILED
        case Unload() if removal or runs:
            return ModuleState.UNLOADING
        case Prepare() if runs:
            return ModuleState.PULLING
        case Load() | Reload() | Adopt() if runs:
            return ModuleState.LOADING
        case _:
            return ModuleState.UNLOADING if removal else ModuleState.PENDING


def _error(ref: ModuleRef, s: Situation, step: Step) -> ModuleFailure | None:
    if isinstance(step, Refuse):
        return step.failure.bounded()
    if isinstance(step, Wait) and step.blocked:
        return step.blocked.bounded()
    if failed := s.failure_of(ref):
        return failed.failure.bounded()
    return _vanished(ref, s)


def _vanished(ref: ModuleRef, s: Situation) -> ModuleFailure | None:
    record = s.records.get(ref)
    if record is None or ref not in s.desired or in_kernel(record, s.view):
        return None
    message = f"{record.kernel_modules[0]} was taken out of the kernel by somebody else"
    return ModuleFailure(reason=Reason.VANISHED, message=message)
