"""The parts of a control plane, built and not running yet."""

import asyncio
import socket
from dataclasses import dataclass

from kmm_common.clock import Clock, SleeplessClock, SystemClock
from kmm_common.reload import SettingsFile
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.events import EventRecorder
from kmm_cp.kube.neighbours import Neighbours
from kmm_cp.reconcilers.gone import unless_gone
from kmm_cp.roles.caches import Caches
from kmm_cp.roles.caches import caches as build_caches
from kmm_cp.roles.control import Control, control
from kmm_cp.roles.enrolment import Enrolling
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

COMPONENT = "kmm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
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


def base_of(client: KubeClient, file: SettingsFile[Settings], metrics: Metrics) -> Base:
    """Return what all parts are built on; the client is the caller's to close."""
    settings, clock = file.current, SystemClock()
    return Base(
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
class Parts:
    """What is started, and what has last words."""

    manager: Manager
    candidate: Candidate
    served: Serving
    events: EventRecorder
    neighbours: Neighbours
    enrolment_port: EnrolmentPort | None


def wired(base: Base, enrolment: Enrolling | None) -> Parts:
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
    return Parts(
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


def _observing(base: Base) -> tuple[ServingObserver, Controller[str]]:
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


def _candidate(base: Base, served: Serving) -> Candidate:
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
