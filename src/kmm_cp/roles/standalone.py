"""The control plane of one cluster: plans from Modules, serves the cluster's daemons."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version

from kmm_common.clock import SystemClock
from kmm_common.errors import KmmError
from kmm_common.listening import listening
from kmm_common.logs import log
from kmm_common.monitoring import MonitoringServer
from kmm_common.program import told_to_stop
from kmm_common.reload import SettingsFile
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.events import EventRecorder
from kmm_cp.kube.neighbours import Neighbours
from kmm_cp.roles.caches import caches as build_caches
from kmm_cp.roles.control import Control, control, rules_of
from kmm_cp.roles.metrics import Metrics
from kmm_cp.roles.observer import ServingObserver
from kmm_cp.roles.serving import Serving, serving
from kmm_cp.runtime.manager import Manager
from kmm_cp.settings import Settings

logger = logging.getLogger(__name__)

COMPONENT = "kmm"
DRAIN_SECONDS = 2.0
LAST_WRITES_SECONDS = 2.0


class _Named:
    """A service with the name that its task and its logs bear."""

    def __init__(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self._run = run

    async def run(self) -> None:
        await self._run()


async def run(file: SettingsFile[Settings]) -> None:
    """Run until SIGTERM or SIGINT; raises KmmError if it cannot start."""
    settings = file.current
    metrics = Metrics(version=version("kmm"))
    client = await KubeClient.connect(
        settings.kubeconfig, user_agent="kmm-cp", field_manager="kmm-cp", observer=metrics
    )
    try:
        await _run(client, file, metrics)
    finally:
        await client.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What is started, and what has last words."""

    manager: Manager
    served: Serving
    events: EventRecorder
    neighbours: Neighbours


async def _run(client: KubeClient, file: SettingsFile[Settings], metrics: Metrics) -> None:
    settings = file.current
    parts = _wired(client, file, metrics)
    monitoring = MonitoringServer(
        settings.metrics_listen, exposition=metrics.exposition, ready=parts.manager.synced.is_set
    )
    await monitoring.start()
    try:
        with listening("listen", settings.listen):
            await parts.served.listener.start()
        if settings.neighbours == "warn" or await _is_alone(parts.neighbours):
            await _until_stopped(parts)
    finally:
        await monitoring.stop()


async def _is_alone(neighbours: Neighbours) -> bool:
    """Return when no other KMM is active; False if told to stop before that is known."""
    looking = asyncio.create_task(neighbours.require_none(), name="neighbours")
    await told_to_stop([looking])
    if not looking.done():
        looking.cancel()
        return False
    looking.result()
    return True


async def _until_stopped(parts: _Parts) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(parts.manager.run(), name="manager")
        log(logger, logging.INFO, "control plane started")
        await told_to_stop([running])
        log(logger, logging.INFO, "control plane stops")
        await _wind_down(parts.served, parts.events)
        parts.manager.stop()


def _wired(client: KubeClient, file: SettingsFile[Settings], metrics: Metrics) -> _Parts:
    """Build everything; nothing runs yet."""
    settings, clock = file.current, SystemClock()
    caches = build_caches(client, namespace=settings.namespace, clock=clock)
    events = EventRecorder(client, component=COMPONENT, clock=clock)
    leading = control(
        client, caches, events, rules=lambda: rules_of(file.current), metrics=metrics, clock=clock
    )
    file.on_change(lambda _: leading.rules_changed())
    observer = ServingObserver(
        events=events,
        metrics=metrics,
        nodes=caches.nodes.store,
        pods=caches.pods.store,
        namespace=settings.namespace,
        restore=leading.restore,
        restore_queue=leading.restore_controller.queue,
        clock=clock,
    )
    replica = settings.replica or socket.gethostname()
    served = serving(client, caches, observer, settings=settings, replica=replica, clock=clock)
    sessions = served.sessions
    sessions.on_change(lambda: leading.sessions_changed(sessions.nodes()))
    metrics.watch_modules(caches.modules.store)
    metrics.watch_sessions(sessions.nodes)
    metrics.watch_settings(lambda: file.right)
    neighbours = Neighbours(
        client=client,
        events=events,
        namespace=settings.namespace,
        tell=metrics.neighbours,
        clock=clock,
    )
    manager = Manager(
        caches=caches.all(),
        services=[
            *_services(leading, served, events),
            _Named("neighbours", neighbours.run),
            _Named("settings", file.run),
        ],
        controllers=leading.controllers,
        clock=clock,
        before_controllers=leading.adopt_digests,
    )
    return _Parts(manager=manager, served=served, events=events, neighbours=neighbours)


def _services(leading: Control, served: Serving, events: EventRecorder) -> list[_Named]:
    return [
        _Named("events", events.run),
        _Named("pins", leading.pins.run),
        _Named("listener", served.listener.run),
        _Named("status", served.status.run),
        _Named("served", served.served.run),
    ]


async def _wind_down(served: Serving, events: EventRecorder) -> None:
    """Send the daemons elsewhere and say what is still to be said, within seconds."""
    await served.listener.drain(DRAIN_SECONDS)
    try:
        async with asyncio.timeout(LAST_WRITES_SECONDS):
            await served.status.flush()
            await events.drain()
            await served.served.withdraw()
    except (KmmError, TimeoutError) as error:
        log(logger, logging.WARNING, "last writes not made", error=str(error) or "timed out")
