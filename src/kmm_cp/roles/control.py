"""The leader's half for one term: what it begins with, runs, and leaves alone after it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kmm_common.clock import Clock
from kmm_cp.images.pins import Pins
from kmm_cp.images.resolver import DigestResolver
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.events import EventRecorder
from kmm_cp.policy.daemonset import Wish
from kmm_cp.policy.digests import known_digests
from kmm_cp.policy.module_status import Rules
from kmm_cp.reconcilers.gone import unless_gone
from kmm_cp.reconcilers.live import LiveNodes, flipped
from kmm_cp.roles.adapters import SecretReader
from kmm_cp.roles.caches import Caches
from kmm_cp.roles.changes import daemon_handlers, handlers, triggers_of, unreadable_teller
from kmm_cp.roles.metrics import Metrics
from kmm_cp.roles.reconcilers import (
    DAEMON_SET,
    Parts,
    daemon_reconciles,
    dead_replicas,
    reconciles,
)
from kmm_cp.runtime.controller import Controller
from kmm_cp.runtime.supervision import NamedService, Service
from kmm_cp.runtime.term import Term
from kmm_cp.serving.sessions import Sessions

FRESH_SECONDS = 10.0
"""A term begins with caches that were listed within so long, or are listed then: of a watch that
has died unnoticed a new leader would put back what another one has changed since."""


class Control:
    """What the leader runs for one term; it knows the caches from begin() to end()."""

    def __init__(
        self,
        *,
        controllers: Mapping[str, Controller[str]],
        services: Sequence[Service],
        caches: Caches,
        pins: Pins,
        live: LiveNodes,
        sessions: Sessions,
        events: EventRecorder,
        clock: Clock,
    ) -> None:
        self.pins = pins
        self.controllers = list(controllers.values())
        self.triggers = triggers_of(controllers, caches)
        self._term = Term(controllers=self.controllers, services=services, clock=clock)
        self._caches = caches
        self._live = live
        self._sessions = sessions
        self._handlers = [
            *handlers(caches, self.triggers, pins),
            *daemon_handlers(caches, controllers),
        ]
        self._tell_unreadable = unreadable_teller(events)

    def begin(self) -> None:
        """Plan from what the caches have, and from what changes in them."""
        self.pins.adopt(known_digests(self._caches.states.store.values()))
        for controller in self.controllers:
            if controller.name == DAEMON_SET:
                # Also where there is nothing yet to be told of.
                controller.queue.add(DAEMON_SET)
        for cache, handler in self._handlers:
            cache.replay(handler)
            cache.add_handler(handler)
        self._caches.modules.add_unreadable_handler(self._tell_unreadable)
        self._sessions.on_change(self._sessions_changed)
        self._sessions_changed()

    def end(self) -> None:
        """Take no notice any more."""
        for cache, handler in self._handlers:
            cache.remove_handler(handler)
        self._caches.modules.remove_unreadable_handler(self._tell_unreadable)
        self._sessions.remove_listener(self._sessions_changed)
        self.stop()

    async def run(self) -> None:
        """Lead until stop()."""
        async with asyncio.TaskGroup() as tasks:
            for cache in self._caches.all():
                refreshed = cache.refresh(older_than=FRESH_SECONDS)
                tasks.create_task(refreshed, name=f"refresh {cache.name}")
        self.begin()
        try:
            await self._term.run()
        finally:
            self.end()

    def stop(self) -> None:
        """Let run() end when the reconciles in progress are done."""
        self._term.stop()

    def _sessions_changed(self) -> None:
        """Take note of the nodes that this replica serves now."""
        before, self._live.here = self._live.here, self._sessions.nodes()
        for node in flipped(before, self._live.here):
            self.triggers.liveness_changed(node)


def control(
    client: KubeClient,
    caches: Caches,
    events: EventRecorder,
    *,
    namespace: str,
    sessions: Sessions,
    rules: Callable[[], Rules],
    metrics: Metrics,
    clock: Clock,
    registry_ca: Path | None,
    daemon: Wish | None = None,
) -> Control:
    """Build everything for one term; nothing runs yet, and nothing listens."""
    pins = Pins(
        resolver=DigestResolver(ca_file=registry_ca),
        secrets=SecretReader(client),
        clock=clock,
        # Late: the triggers need the queues of the controllers that plan with the pins.
        on_change=lambda key: built.triggers.image_changed(key),
    )
    live = LiveNodes(caches.served.store)
    parts = Parts(
        client=client,
        events=events,
        caches=caches,
        live=live,
        pins=pins,
        namespace=namespace,
        rules=rules,
        clock=clock,
    )
    controllers = {
        name: Controller(name, unless_gone(reconcile), clock=clock, observer=metrics)
        for name, reconcile in {**reconciles(parts), **daemon_reconciles(parts, daemon)}.items()
    }
    for controller in controllers.values():
        metrics.watch_controller(controller)
    built = Control(
        controllers=controllers,
        services=[NamedService("pins", pins.run), dead_replicas(parts)],
        caches=caches,
        pins=pins,
        live=live,
        sessions=sessions,
        events=events,
        clock=clock,
    )
    return built
