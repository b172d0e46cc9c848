"""What the node knows of its Modules, told from journal and kernel: no daemon has to run for it."""

import fcntl
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from kmm_common import certificate
from kmm_common.clock import rfc3339
from kmm_common.desired import ReportedModule
from kmm_common.tls import TlsFilesError
from kmm_daemon import journal, lock, sessionnote
from kmm_daemon.journal import Memory, UnusableJournalError
from kmm_daemon.kernel import claims
from kmm_daemon.kernel.claims import Claims
from kmm_daemon.kernel.procfs import KernelFiles, KernelReader
from kmm_daemon.plan import plan, standing
from kmm_daemon.report import report
from kmm_daemon.sessionnote import SessionNote
from kmm_daemon.settings import Settings
from kmm_daemon.situation import Situation
from kmm_daemon.values import KernelView


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """The node at one moment."""

    daemon: str
    """Process id of the running daemon; empty if none runs."""
    session: SessionNote | None = None
    """What the daemon that runs, or ran last, noted of its session."""
    certificate: str
    """Until when the daemon's certificate is valid, or why that cannot be read."""
    view: KernelView
    memory: Memory
    unusable: str = ""
    """Why there is no memory of this boot."""


async def look(settings: Settings, root: Path = Path("/")) -> NodeStatus:
    """Read journal, lock and kernel; nothing is changed. Raises TransientError, OSError.

    `root` holds proc and sys.
    """
    view = await KernelReader(KernelFiles(root=root, module_trees=settings.module_trees)).view()
    view = replace(view, at_work=Claims(settings.run_dir / claims.NAME).alive())
    memory, unusable = _memory(settings.run_dir / journal.NAME, view.boot_id)
    daemon = _daemon(settings.run_dir / lock.NAME)
    return NodeStatus(
        daemon=daemon,
        session=sessionnote.read(settings.run_dir),
        certificate=_certificate(settings.tls.cert),
        view=view,
        memory=memory,
        unusable=unusable,
    )


def _certificate(path: Path) -> str:
    try:
        return f"valid until {rfc3339(certificate.expiry(path))}"
    except TlsFilesError as error:
        return str(error)


def _memory(path: Path, boot_id: str) -> tuple[Memory, str]:
    try:
        return journal.decode(path.read_bytes(), boot_id), ""
    except FileNotFoundError:
        return Memory(), f"there is no {path}: no desired state has arrived in this boot"
    except UnusableJournalError as error:
        return Memory(), f"{path} is not used: {error}"


def _daemon(path: Path) -> str:
    """Return who holds the lock of the run directory."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 32).decode(errors="replace").strip()
    finally:
        os.close(descriptor)
    return ""


def as_text(status: NodeStatus) -> str:
    """Return the status for people: the node, then every Module, then every failure."""
    return "\n".join([*_heading(status), *_modules(status)])


def _heading(status: NodeStatus) -> Iterator[str]:
    view, memory = status.view, status.memory
    yield f"kernel         {view.kernel_version}, boot {view.boot_id}"
    yield f"daemon         {f'process {status.daemon}' if status.daemon else 'does not run'}"
    yield f"session        {_session(status)}"
    yield f"certificate    {status.certificate}"
    if memory.uid:
        yield f"desired state  generation {memory.generation} of {memory.uid}"
    else:
        yield f"desired state  unknown: {status.unusable or 'none was accepted in this boot'}"


def _session(status: NodeStatus) -> str:
    note = status.session
    if not status.daemon or note is None:
        return "none: the daemon does not run"
    if note.connected:
        return f"with the control plane, since {note.since}"
    return f"none since {note.since}: {note.problem}"


def _modules(status: NodeStatus) -> Iterator[str]:
    s = _situation(status)
    steps = {step.ref: step for step in plan(s)}
    for module in report(s, steps, {}):
        record = standing(module.ref, s)
        names = ", ".join(record.kernel_modules) if record and module.in_kernel else "none"
        yield ""
        yield f"Module {module.ref}: {module.state}"
        yield f"  in the kernel  {names}"
        yield f"  image digest   {module.image_digest or 'not known yet'}"
        if module.warning:
            yield f"  warning        {module.warning}"
        yield from _failure(module)


def _failure(module: ReportedModule) -> Iterator[str]:
    if module.error is None:
        return
    times = f", attempt {module.attempts}" if module.attempts else ""
    yield f"  {module.error.reason}{times}: {module.error.message}"
    for line in module.error.kernel_log:
        yield f"    kernel: {line}"


def _situation(status: NodeStatus) -> Situation:
    memory = status.memory
    # When the next attempt is due is known to the running daemon alone.
    failures = (replace(failed, retry_at=math.inf) for failed in memory.failures)
    return Situation(
        desired={module.ref: module for module in memory.modules},
        view=status.view,
        records={record.module.ref: record for record in memory.records},
        begun={begun.module.ref: begun for begun in memory.begun},
        failures={failed.entry.ref: failed for failed in failures if failed.entry},
    )
