"""Nothing is started beside a process, or an init or exit, that has not ended: pure."""

from kmm_common.api.names import Reason
from kmm_common.desired import ModuleFailure, ModuleRef
from kmm_daemon.situation import Situation
from kmm_daemon.steps import Load, Reload, Step, Unload, Wait, touched
from kmm_daemon.values import Process


def still_running(process: Process) -> ModuleFailure:
    """Return what is told of a process that was not awaited, or could not be killed."""
    message = f"{process} has not ended: nothing else is started for this Module until it does"
    if process.pid:
        message += f"; /proc/{process.pid}/stack says where in the kernel it waits"
    return ModuleFailure(reason=Reason.STILL_RUNNING, message=message)


def own_process(ref: ModuleRef, s: Situation) -> Wait | None:
    """Have a Module wait for the process that was started for it, whatever is desired by now."""
    process = s.view.at_work.get(ref)
    if process is None:
        return None
    failed = s.failure_of(ref)
    told = failed is not None and failed.failure.reason == Reason.STILL_RUNNING
    blocked = None if told else still_running(process)
    why = f"{process} has not ended"
    return Wait(ref=ref, why=why, failed=failed, blocked=blocked, kernel=True)


def unless_busy(step: Step, s: Situation) -> Step:
    """Return the step, or a Wait if it touches what somebody else has not finished with.

    A modprobe would wait inside the kernel for the end of another one's init, and pile up there.
    """
    if not isinstance(step, Load | Reload | Unload):
        return step
    names = touched(step)
    return _behind_process(step.ref, names, s) or _behind_kernel(step.ref, names, s) or step


def _behind_process(ref: ModuleRef, names: frozenset[str], s: Situation) -> Wait | None:
    for other, process in sorted(s.view.at_work.items()):
        shared = names.intersection(process.names)
        if shared:
            why = f"{min(shared)} is in the hands of {process}, which has not ended for Module "
            blocked = ModuleFailure(reason=Reason.STILL_RUNNING, message=f"{why}{other}")
            return Wait(ref=ref, why=blocked.message, blocked=blocked, kernel=True)
    return None


def _behind_kernel(ref: ModuleRef, names: frozenset[str], s: Situation) -> Wait | None:
    for name in sorted(names & s.view.modules.keys()):
        if s.view.modules[name].state != "Live":
            why = f"the kernel says {name} is {s.view.modules[name].state}"
            return Wait(ref=ref, why=why, kernel=True)
    return None
