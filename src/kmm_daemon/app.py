"""The daemon as a whole: builds its parts, runs them, and ends at once when told to."""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmm_common.clock import Clock, SystemClock
from kmm_common.desired import ModuleRef
from kmm_common.listening import host_and_port
from kmm_common.logs import log
from kmm_common.monitoring import MonitoringServer
from kmm_common.oci.credentials import RegistryCredential
from kmm_common.program import told_to_stop
from kmm_common.reload import SettingsFile
from kmm_common.tls import TlsFiles
from kmm_daemon.agent import Agent, Pace
from kmm_daemon.images.worker import ImagePlace, ImageWorker
from kmm_daemon.journal import Journal
from kmm_daemon.kernel.modprobe import KernelPlaces, ModprobeKernel
from kmm_daemon.kernel.runner import Deadline, Programs, Runner
from kmm_daemon.link.client import LinkClient
from kmm_daemon.link.ports import Told
from kmm_daemon.lock import only_one
from kmm_daemon.metrics import Metrics
from kmm_daemon.sessionnote import SessionNotes
from kmm_daemon.settings import Settings
from kmm_daemon.turns import TimedSelector

if TYPE_CHECKING:
    from kmm_daemon.link.renewal import Renewal

logger = logging.getLogger(__name__)

THREADS = 3
"""For what blocks, as files, names and locks of the kernel. Left to itself, asyncio has as many as
the node has cores, up to 32, and each keeps memory."""

ENROL_DEADLINE = Deadline(seconds=120.0)

Part = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine below the daemon: this one, unless it is simulated."""

    root: Path = Path("/")
    """Holds proc, sys and dev."""
    runner: Runner = field(default_factory=Runner)
    programs: Callable[[], Programs] = Programs.find
    """Raises TerminalError."""
    image_user: bool = True
    """Whether a root has images brought by the user of its settings."""


THIS = Machine()


class _Credentials:
    """The link's credentials for the image store, which is built before the link."""

    def __init__(self) -> None:
        self.link: LinkClient | None = None

    async def fetch(self, ref: ModuleRef, refresh: bool) -> Sequence[RegistryCredential]:
        if self.link is None:
            return ()
        return await self.link.fetch(ref, refresh)


class _Told:
    """Hands on what the link tells."""

    def __init__(self, *listeners: Told) -> None:
        self._listeners = listeners

    def session(self, *, connected: bool, problem: str = "") -> None:
        for listener in self._listeners:
            listener.session(connected=connected, problem=problem)


async def run(file: SettingsFile[Settings], turns: TimedSelector, machine: Machine) -> None:
    """Run until SIGTERM or SIGINT. Raises KmmError or OSError if it cannot start.

    A signal ends the process at once and unloads nothing: modules outlive their daemon.
    """
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="blocking")
    asyncio.get_running_loop().set_default_executor(threads)
    with only_one(file.current.run_dir):
        await _run(file, turns, machine)


async def _run(file: SettingsFile[Settings], turns: TimedSelector, machine: Machine) -> None:
    settings = file.current
    clock, credentials = SystemClock(), _Credentials()
    metrics = Metrics(version=version("kmm"))
    metrics.certificate(settings.tls.cert)
    turns.on_turn(metrics.turn)
    told = _Told(metrics, SessionNotes(settings.run_dir, clock))
    told.session(connected=False, problem="the daemon has just started")
    kernel = _kernel(settings, machine)
    view = await kernel.view()
    journal = Journal(settings.run_dir, view.boot_id)
    agent: Agent
    images = ImageWorker(
        _image_place(settings, machine),
        secrets=credentials,
        needed=lambda: agent.needed(),
        json_logs=settings.log_format == "json",
    )
    agent = Agent(
        images=images,
        kernel=kernel,
        journal=journal,
        clock=clock,
        metrics=metrics,
        pace=_pace(settings),
    )
    file.on_change(lambda new: agent.keep(_pace(new)))
    file.on_change(lambda new: kernel.limit(_deadline(new)))
    metrics.watch_settings(lambda: file.right)
    credentials.link = link = _link(settings, agent, told, clock)
    renewal = _renewal(settings, told, metrics, clock)
    parts = (agent.run, images.run, *_linked(link, renewal), file.run)
    try:
        await images.open()
        await agent.start()
        await _serve(settings, parts, metrics)
    finally:
        journal.close()


async def _serve(settings: Settings, parts: Sequence[Part], metrics: Metrics) -> None:
    # Ready with or without a control plane: the daemon knows by now what the kernel has.
    tls = settings.metrics_tls
    monitoring = MonitoringServer(
        settings.metrics_listen,
        exposition=metrics.exposition,
        tls=tls,
        # The certificate that it enrols for is there only once it has.
        awaits_files=bool(settings.enrol and tls and tls.cert == settings.tls.cert),
    )
    await monitoring.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(part(), name=part.__qualname__) for part in parts]
            log(logger, logging.INFO, "daemon started", version=version("kmm"))
            await told_to_stop(running)
            log(logger, logging.INFO, "daemon stops; what is loaded stays loaded")
            for task in running:
                task.cancel()
    finally:
        await monitoring.stop()


def _image_place(settings: Settings, machine: Machine) -> ImagePlace:
    return ImagePlace(
        directory=settings.state_dir / "images",
        max_bytes=settings.image_cache_bytes,
        registry_ca=settings.registry_ca,
        user=settings.image_user if machine.image_user and os.geteuid() == 0 else None,
    )


def _kernel(settings: Settings, machine: Machine) -> ModprobeKernel:
    places = KernelPlaces(
        run=settings.run_dir,
        state=settings.state_dir,
        firmware=settings.firmware_dir,
        module_trees=settings.module_trees,
        root=machine.root,
    )
    return ModprobeKernel(places, machine.runner, machine.programs(), _deadline(settings))


def _deadline(settings: Settings) -> Deadline:
    return Deadline(seconds=settings.modprobe_seconds, grace=settings.modprobe_grace_seconds)


def _pace(settings: Settings) -> Pace:
    return Pace(drift_check=settings.drift_check_seconds)


def _renewal(settings: Settings, told: Told, metrics: Metrics, clock: Clock) -> "Renewal | None":
    if settings.enrol is None:
        return None
    # Here, since with cert-manager a daemon has no use for it.
    from kmm_daemon.link.renewal import Enrolling, Renewal

    enrolling = Enrolling(
        server=settings.enrol.server,
        server_name=settings.server_name or host_and_port(settings.server)[0] or "localhost",
        token=settings.enrol.token,
        files=_files(settings),
    )
    return Renewal(enrolling, run=ran, told=told, observer=metrics, clock=clock)


async def ran(argv: Sequence[str]) -> str:
    """Run a program to its end; return what went wrong."""
    done = await Runner().run(argv, ENROL_DEADLINE)
    if done.ok:
        return ""
    return done.stderr.strip() or f"the program that enrols ended with {done.exit_code}"


def _linked(link: LinkClient, renewal: "Renewal | None") -> tuple[Part, ...]:
    if renewal is None:
        return (link.run,)

    async def link_once_enrolled() -> None:
        await renewal.enrolled.wait()
        await link.run()

    return renewal.run, link_once_enrolled


def _files(settings: Settings) -> TlsFiles:
    return TlsFiles(cert=settings.tls.cert, key=settings.tls.key, ca=settings.tls.ca)


def _link(settings: Settings, agent: Agent, told: Told, clock: Clock) -> LinkClient:
    return LinkClient(
        settings.server,
        files=_files(settings),
        holder=agent,
        told=told,
        clock=clock,
        version=version("kmm"),
        server_name=settings.server_name,
    )
