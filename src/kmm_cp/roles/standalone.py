"""The control plane of one cluster: plans from Modules, serves the cluster's daemons."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any, TypeVar

from kmm_common.errors import KmmError
from kmm_common.listening import listening
from kmm_common.logs import log
from kmm_common.monitoring import MonitoringServer
from kmm_common.program import told_to_stop
from kmm_common.reload import SettingsFile
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.events import EventRecorder
from kmm_cp.roles.enrolment import Enrolling, enrolling
from kmm_cp.roles.metrics import Metrics
from kmm_cp.roles.parts import Base, Parts, base_of, wired
from kmm_cp.roles.serving import Serving
from kmm_cp.settings import Settings

logger = logging.getLogger(__name__)

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
        base = base_of(client, file, metrics)
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


async def _run(base: Base, enrolment: Enrolling | None) -> None:
    async with AsyncExitStack() as opened:
        parts = await _unless_told_to_stop(_started(base, enrolment, opened))
        if parts:
            await _until_stopped(parts)


async def _started(base: Base, enrolment: Enrolling | None, opened: AsyncExitStack) -> Parts:
    """Return what may run now, however long the API server is away. Raises KmmError.

    `opened` is given what has to be closed, whatever comes of it.
    """
    settings = base.settings
    if enrolment:
        # First: it may have to make the certificates that daemons are served with.
        await enrolment.keeper.prepare()
    parts = wired(base, enrolment)
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


async def _until_stopped(parts: Parts) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(parts.manager.run(), name="manager")
        log(logger, logging.INFO, "control plane started")
        await told_to_stop([running])
        log(logger, logging.INFO, "control plane stops")
        # At once: the next leader begins while the daemons are sent elsewhere.
        parts.candidate.stop()
        await _wind_down(parts.served, parts.events)
        parts.manager.stop()


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
