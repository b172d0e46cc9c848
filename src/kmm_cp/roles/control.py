"""The leader's half for one term: reconcilers, their controllers, and what sets them off."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kmm_common.api.names import Event
from kmm_common.clock import Clock
from kmm_cp.images.pins import Pins
from kmm_cp.images.resolver import DigestResolver
from kmm_cp.kube.client import KubeClient, Object
from kmm_cp.kube.events import EventRecorder, Regarding
from kmm_cp.kube.informer import Change, Handler, Informer, UnreadableHandler
from kmm_cp.policy.daemonset import Wish
from kmm_cp.policy.digests import known_digests
from kmm_cp.policy.module_status import Rules
from kmm_cp.policy.values import NodeState
from kmm_cp.reconcilers.connection import ConnectionReconciler
from kmm_cp.reconcilers.daemonset import DaemonSetReconciler
from kmm_cp.reconcilers.gone import unless_gone
from kmm_cp.reconcilers.label import LabelReconciler
from kmm_cp.reconcilers.live import Live, LiveNodes, flipped
from kmm_cp.reconcilers.module import ModuleReconciler
from kmm_cp.reconcilers.module_status import ModuleStatusReconciler
from kmm_cp.reconcilers.namespace import NamespaceReconciler
from kmm_cp.reconcilers.node import NodeReconciler
from kmm_cp.reconcilers.pause import PauseReconciler
from kmm_cp.reconcilers.replicas import DeadReplicas
from kmm_cp.reconcilers.retry import RetryReconciler
from kmm_cp.reconcilers.triggers import Triggers
from kmm_cp.roles.adapters import ConfigMapWriter, SecretReader
from kmm_cp.roles.caches import SERVED_LABELS, Caches
from kmm_cp.roles.leases import ReplicaLeases
from kmm_cp.roles.metrics import Metrics
from kmm_cp.runtime.controller import Controller, Reconcile
from kmm_cp.runtime.supervision import NamedService, Service
from kmm_cp.runtime.term import Term
from kmm_cp.serving.served import replica_of
from kmm_cp.serving.sessions import Sessions
from kmm_cp.settings import Settings


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
        self.triggers = _triggers(controllers, caches)
        self._term = Term(controllers=self.controllers, services=services, clock=clock)
        self._caches = caches
        self._live = live
        self._sessions = sessions
        self._handlers = [
            *_handlers(caches, self.triggers, pins),
            *_daemon_handlers(caches, controllers),
        ]
        self._tell_unreadable = _unreadable_teller(events)

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


DAEMON_SET = "daemonset"
"""The controller's name, and its only key."""
FRESH_SECONDS = 10.0
"""A term begins with caches that were listed within so long, or are listed then: of a watch that
has died unnoticed a new leader would put back what another one has changed since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    client: KubeClient
    events: EventRecorder
    caches: Caches
    live: Live
    pins: Pins
    namespace: str
    rules: Callable[[], Rules]
    clock: Clock


def rules_of(settings: Settings) -> Rules:
    """Return what an administrator has set for all Modules."""
    return Rules(
        tolerated_failures=settings.tolerated_failures,
        disconnected_seconds=settings.disconnected_seconds,
    )


def wish_of(settings: Settings) -> Wish | None:
    """Return the DaemonSet that an administrator wants of us; None if it is somebody else's."""
    if not settings.daemon_template:
        return None
    return Wish(
        name=settings.daemon_daemonset,
        namespace=settings.namespace,
        max_unavailable=settings.daemon_max_unavailable,
        template=settings.daemon_template,
        deployment=settings.deployment,
    )


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
    daemon: Wish | None = None,
) -> Control:
    """Build everything for one term; nothing runs yet, and nothing listens."""
    pins = Pins(
        resolver=DigestResolver(),
        secrets=SecretReader(client),
        clock=clock,
        # Late: the triggers need the queues of the controllers that plan with the pins.
        on_change=lambda key: built.triggers.image_changed(key),
    )
    live = LiveNodes(caches.served.store)
    parts = _Parts(
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
        for name, reconcile in {**_reconciles(parts), **_daemon(parts, daemon)}.items()
    }
    for controller in controllers.values():
        metrics.watch_controller(controller)
    built = Control(
        controllers=controllers,
        services=[NamedService("pins", pins.run), _dead_replicas(parts)],
        caches=caches,
        pins=pins,
        live=live,
        sessions=sessions,
        events=events,
        clock=clock,
    )
    return built


def _daemon(parts: _Parts, wish: Wish | None) -> dict[str, Reconcile[str]]:
    """Return the reconciler of the daemon's DaemonSet, where that is ours."""
    caches = parts.caches.daemon
    if wish is None or caches is None:
        return {}
    reconciler = DaemonSetReconciler(
        client=parts.client,
        events=parts.events,
        wish=wish,
        templates=caches.templates.store,
        daemon_sets=caches.daemon_sets.store,
        observe=caches.daemon_sets.observe,
    )
    return {DAEMON_SET: reconciler.reconcile}


def _daemon_handlers(
    caches: Caches, controllers: Mapping[str, Controller[str]]
) -> list[tuple[Informer[Any], Handler[Any]]]:
    controller = controllers.get(DAEMON_SET)
    if controller is None or caches.daemon is None:
        return []

    def changed(_change: Change[Object]) -> None:
        controller.queue.add(DAEMON_SET)

    return [(caches.daemon.templates, changed), (caches.daemon.daemon_sets, changed)]


def _dead_replicas(parts: _Parts) -> DeadReplicas:
    namespace, lists = parts.namespace, parts.caches.served.store
    leases = ReplicaLeases(client=parts.client, namespace=namespace, replica="", clock=parts.clock)
    config_maps = ConfigMapWriter(client=parts.client, namespace=namespace, labels=SERVED_LABELS)

    def of_replicas() -> dict[str, list[str]]:
        """Return the names of the lists of each replica."""
        found: dict[str, list[str]] = {}
        for key in lists:
            name = key.rpartition("/")[2]
            found.setdefault(replica_of(name), []).append(name)
        return found

    async def clear(replica: str) -> None:
        for name in of_replicas().get(replica, ()):
            await config_maps.delete(name)
        await leases.clear(replica)

    return DeadReplicas(signs=leases.signs, listing=of_replicas, clear=clear, clock=parts.clock)


def _reconciles(parts: _Parts) -> dict[str, Reconcile[str]]:
    """Return the reconcilers that read all three caches."""
    caches = parts.caches
    shared: dict[str, Any] = {"client": parts.client, "clock": parts.clock}
    views: dict[str, Any] = {"nodes": caches.nodes.store, "states": caches.states.store}
    modules = caches.modules.store
    return {
        "node": NodeReconciler(
            **shared,
            **views,
            modules=modules,
            unreadable=modules.unreadable,
            digests=parts.pins,
            live=parts.live,
            observe=caches.states.observe,
        ).reconcile,
        "label": LabelReconciler(
            client=parts.client, events=parts.events, modules=modules, live=parts.live, **views
        ).reconcile,
        "connection": ConnectionReconciler(
            **shared, states=caches.states.store, live=parts.live
        ).reconcile,
        "pause": PauseReconciler(**shared, **views).reconcile,
        "module": ModuleReconciler(
            **shared,
            **views,
            modules=modules,
            events=parts.events,
            live=parts.live,
            rules=parts.rules,
        ).reconcile,
        "retry": RetryReconciler(
            client=parts.client,
            modules=modules,
            states=caches.states.store,
            secrets=SecretReader(parts.client),
            look_again=parts.pins.look_again,
            observe=caches.modules.observe,
        ).reconcile,
        "namespace": NamespaceReconciler(
            client=parts.client,
            modules=modules,
            unreadable=modules.unreadable,
            namespaces=caches.namespaces.store,
            observe=caches.namespaces.observe,
        ).reconcile,
        "module-status": ModuleStatusReconciler(
            **shared,
            **views,
            modules=modules,
            events=parts.events,
            digests=parts.pins,
            live=parts.live,
            observe=caches.modules.observe,
            rules=parts.rules,
        ).reconcile,
    }


def _triggers(controllers: Mapping[str, Controller[str]], caches: Caches) -> Triggers:
    return Triggers(
        modules=caches.modules.store,
        nodes=caches.nodes.store,
        states=caches.states.store,
        node_queue=controllers["node"].queue,
        label_queue=controllers["label"].queue,
        connection_queue=controllers["connection"].queue,
        pause_queue=controllers["pause"].queue,
        module_queue=controllers["module"].queue,
        retry_queue=controllers["retry"].queue,
        status_queue=controllers["module-status"].queue,
        namespace_queue=controllers["namespace"].queue,
    )


def _handlers(
    caches: Caches, triggers: Triggers, pins: Pins
) -> list[tuple[Informer[Any], Handler[Any]]]:
    def adopt(change: Change[NodeState]) -> None:
        """Pin what a daemon found out where no registry answered the control plane."""
        if change.fresh and change.new is not None:
            pins.adopt(known_digests([change.new]))

    return [
        (caches.modules, triggers.module_changed),
        (caches.nodes, triggers.node_changed),
        (caches.states, triggers.state_changed),
        (caches.served, triggers.served_changed),
        (caches.namespaces, triggers.namespace_changed),
        (caches.states, adopt),
    ]


def _unreadable_teller(events: EventRecorder) -> UnreadableHandler:
    def tell(module: Object, error: Exception) -> None:
        metadata = module["metadata"]
        regarding = Regarding.module(metadata["namespace"], metadata["name"], metadata["uid"])
        why = " ".join(str(error).split())
        text = f"Nodes keep what they have of this Module until it is corrected: {why}"
        events.warning(regarding, Event.MODULE_UNREADABLE, text)

    return tell
