"""The control plane of one cluster: plans from Modules, serves the cluster's daemons."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

from kmm_common.clock import Clock, SleeplessClock, SystemClock
from kmm_common.errors import KmmError
from kmm_common.listening import listening
from kmm_common.logs import log
from kmm_common.monitoring import MonitoringServer
from kmm_common.program import told_to_stop
from kmm_common.reload import SettingsFile
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.events import EventRecorder
from kmm_cp.kube.neighbours import Neighbours
from kmm_cp.reconcilers.gone import unless_gone
from kmm_cp.roles.caches import Caches
from kmm_cp.roles.caches import caches as build_caches
from kmm_cp.roles.control import Control, control
from kmm_cp.roles.enrolment import Enrolling, enrolling
from kmm_cp.roles.leases import Announcer, LeaseRecords
from kmm_cp.roles.metrics import Metrics
from kmm_cp.roles.observer import ServingObserver
from kmm_cp.roles.serving import Serving, daemon_pods, serving
from kmm_cp.roles.wishes import rules_of, wish_of
from kmm_cp.runtime.candidate import Candidate
from kmm_cp.runtime.controller import Controller
from kmm_cp.runtime.election import Timing
from kmm_cp.runtime.lateness import Lateness
from kmm_cp.runtime.manager import Manager
from kmm_cp.runtime.supervision import NamedService, Service
from kmm_cp.serving.enrolport import EnrolmentPort
from kmm_cp.serving.restore import Restorer
from kmm_cp.settings import Settings

logger = logging.getLogger(__name__)

COMPONENT = "kmm"
DRAIN_SECONDS = 2.0
LAST_WRITES_SECONDS = 2.0

T = TypeVar("T")


async def run(file: SettingsFile[Settings]) -> None:
    """Run until SIGTERM or SIGINT; raises KmmError if it cannot start."""
    settings, metrics = file.current, Metrics(version=version("kmm"))
    client = await KubeClient.connect(
        settings.kubeconfig, user_agent="kmm-cp", field_manager="kmm-cp", observer=metrics
    )
    try:
        base = _base(client, file, metrics)
        enrolment = enrolling(client, settings, base.clock)
        if enrolment and settings.metrics_tls:
            # Probes may be answered with them, and are so before there is an authority.
            await enrolment.keeper.stand_in()
        # Before whatever waits for the API server: the kubelet ends what does not answer.
        async with _monitored(settings, metrics, ready=base.synced.is_set):
            await _run(base, enrolment)
    finally:
        await client.close()


@asynccontextmanager
async def _monitored(
    settings: Settings, metrics: Metrics, *, ready: Callable[[], bool]
) -> AsyncIterator[None]:
    """Answer to probes and Prometheus within."""
    monitoring = MonitoringServer(
        settings.metrics_listen,
        exposition=metrics.exposition,
        ready=ready,
        tls=settings.metrics_tls,
    )
    await monitoring.start()
    try:
        yield
    finally:
        await monitoring.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """What all parts are built on."""

    client: KubeClient
    file: SettingsFile[Settings]
    metrics: Metrics
    caches: Caches
    events: EventRecorder
    replica: str
    clock: Clock
    synced: asyncio.Event
    """Set once all caches are."""

    @property
    def settings(self) -> Settings:
        return self.file.current

    @property
    def namespace(self) -> str:
        return self.settings.namespace


def _base(client: KubeClient, file: SettingsFile[Settings], metrics: Metrics) -> _Base:
    settings, clock = file.current, SystemClock()
    return _Base(
        client=client,
        file=file,
        metrics=metrics,
        caches=build_caches(
            client,
            namespace=settings.namespace,
            clock=clock,
            owns_daemon=bool(settings.daemon_template),
        ),
        events=EventRecorder(client, component=COMPONENT, clock=clock),
        replica=settings.replica or socket.gethostname(),
        clock=clock,
        synced=asyncio.Event(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What is started, and what has last words."""

    manager: Manager
    candidate: Candidate
    served: Serving
    events: EventRecorder
    neighbours: Neighbours
    enrolment_port: EnrolmentPort | None


async def _run(base: _Base, enrolment: Enrolling | None) -> None:
    async with AsyncExitStack() as opened:
        parts = await _unless_told_to_stop(_started(base, enrolment, opened))
        if parts:
            await _until_stopped(parts)


async def _started(base: _Base, enrolment: Enrolling | None, opened: AsyncExitStack) -> _Parts:
    """Return what may run now, however long the API server is away. Raises KmmError.

    `opened` is given what has to be closed, whatever comes of it.
    """
    settings = base.settings
    if enrolment:
        # First: it may have to make the certificates that daemons are served with.
        await enrolment.keeper.prepare()
    parts = _wired(base, enrolment)
    with listening("listen", settings.listen):
        await parts.served.listener.start()
    opened.push_async_callback(parts.served.listener.stop)
    if enrolment and parts.enrolment_port:
        opened.push_async_callback(parts.enrolment_port.stop)
        await enrolment.open(parts.enrolment_port)
    if settings.neighbours == "refuse":
        await parts.neighbours.require_none()
    return parts


async def _unless_told_to_stop(start: Coroutine[Any, Any, T]) -> T | None:
    """Return what comes of a start; None if told to stop before that is known."""
    starting = asyncio.create_task(start, name="start")
    await told_to_stop([starting])
    if starting.done():
        return starting.result()
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    return None


async def _until_stopped(parts: _Parts) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(parts.manager.run(), name="manager")
        log(logger, logging.INFO, "control plane started")
        await told_to_stop([running])
        log(logger, logging.INFO, "control plane stops")
        # At once: the next leader begins while the daemons are sent elsewhere.
        parts.candidate.stop()
        await _wind_down(parts.served, parts.events)
        parts.manager.stop()


def _wired(base: _Base, enrolment: Enrolling | None) -> _Parts:
    """Build everything; nothing runs yet."""
    client, file, metrics = base.client, base.file, base.metrics
    settings, clock = base.settings, base.clock
    observer, restoring = _observing(base)
    served = serving(
        client, base.caches, observer, settings=settings, replica=base.replica, clock=clock
    )
    candidate = _candidate(base, served)
    port = enrolment.port(base.caches, observer, daemon_pods(settings)) if enrolment else None
    neighbours = Neighbours(
        client=client,
        events=base.events,
        namespace=base.namespace,
        tell=metrics.neighbours,
        clock=clock,
    )
    metrics.watch_modules(base.caches.modules.store)
    metrics.watch_sessions(served.sessions.nodes)
    metrics.watch_settings(lambda: file.right)
    metrics.watch_leading(lambda: candidate.leading)
    services: list[Service] = [
        restoring,
        NamedService("events", base.events.run),
        NamedService("listener", served.listener.run),
        NamedService("status", served.status.run),
        NamedService("served", served.served.run),
        NamedService("presence", served.presence.run),
        NamedService("neighbours", neighbours.run),
        NamedService("settings", file.run),
        NamedService("lateness", Lateness(metrics.late, clock=clock).run),
        *_enrolment_services(enrolment, port),
    ]
    return _Parts(
        manager=Manager(
            caches=base.caches.all(),
            services=services,
            work=candidate,
            clock=clock,
            synced=base.synced,
        ),
        candidate=candidate,
        served=served,
        events=base.events,
        neighbours=neighbours,
        enrolment_port=port,
    )


def _enrolment_services(enrolment: Enrolling | None, port: EnrolmentPort | None) -> list[Service]:
    if enrolment is None or port is None:
        return []
    scraper = enrolment.scraper()
    return [
        NamedService("authority", enrolment.keeper.run),
        NamedService("enrolment", port.run),
        *([NamedService("scraper", scraper.run)] if scraper else []),
    ]


def _observing(base: _Base) -> tuple[ServingObserver, Controller[str]]:
    """Return what is told of daemons, and what restores the states that it is told of."""
    nodes = base.caches.nodes.store
    restorer = Restorer(client=base.client, events=base.events, nodes=nodes)
    restoring = Controller(
        "restore", unless_gone(restorer.reconcile), clock=base.clock, observer=base.metrics
    )
    base.metrics.watch_controller(restoring)
    observer = ServingObserver(
        events=base.events,
        metrics=base.metrics,
        nodes=nodes,
        pods=base.caches.pods.store,
        namespace=base.namespace,
        restore=restorer,
        restore_queue=restoring.queue,
        clock=base.clock,
    )
    return observer, restoring


def _candidate(base: _Base, served: Serving) -> Candidate:
    """Return who takes part in the election, and builds the leader's half for each term."""
    lease, clock = base.settings.lease, SleeplessClock()
    terms: list[Control] = []

    def new_term() -> Control:
        term = control(
            base.client.fenced(lambda: candidate.leading, user_agent="kmm-cp-leader"),
            base.caches,
            base.events,
            namespace=base.namespace,
            sessions=served.sessions,
            rules=lambda: rules_of(base.file.current),
            metrics=base.metrics,
            clock=base.clock,
            registry_ca=base.settings.registry_ca,
            daemon=wish_of(base.settings),
        )
        terms[:] = [term]
        return term

    def rules_changed() -> None:
        for term in terms:
            term.triggers.rules_changed()

    base.file.on_change(lambda _: rules_changed())
    candidate = Candidate(
        identity=base.replica,
        records=LeaseRecords(
            client=base.client, namespace=base.namespace, name=lease.name, clock=clock
        ),
        timing=Timing(
            duration=lease.duration_seconds,
            renew_deadline=lease.renew_deadline_seconds,
            retry_period=lease.retry_period_seconds,
        ),
        new_term=new_term,
        observer=Announcer(
            events=base.events,
            metrics=base.metrics,
            replica=base.replica,
            namespace=base.namespace,
            lease=lease.name,
        ),
        clock=clock,
    )
    return candidate


async def _wind_down(served: Serving, events: EventRecorder) -> None:
    """Send the daemons elsewhere and say what is still to be said, within seconds."""
    await served.listener.drain(DRAIN_SECONDS)
    try:
        async with asyncio.timeout(LAST_WRITES_SECONDS):
            await served.status.flush()
            await events.drain()
            await served.served.withdraw()
            await served.presence.withdraw()
    except (KmmError, TimeoutError) as error:
        log(logger, logging.WARNING, "last writes not made", error=str(error) or "timed out")
