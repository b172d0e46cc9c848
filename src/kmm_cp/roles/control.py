"""The leader's half: reconcilers, their controllers, and what sets them off."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kmm_common.api.names import Event
from kmm_common.clock import Clock
from kmm_cp.images.pins import Pins
from kmm_cp.images.resolver import DigestResolver
from kmm_cp.kube.client import KubeClient, Object
from kmm_cp.kube.events import EventRecorder, Regarding
from kmm_cp.kube.informer import Change
from kmm_cp.policy.digests import known_digests
from kmm_cp.policy.module_status import Rules
from kmm_cp.policy.values import NodeState
from kmm_cp.reconcilers.connection import ConnectionReconciler
from kmm_cp.reconcilers.gone import unless_gone
from kmm_cp.reconcilers.label import LabelReconciler
from kmm_cp.reconcilers.live import Live, LiveNodes, flipped
from kmm_cp.reconcilers.module import ModuleReconciler
from kmm_cp.reconcilers.module_status import ModuleStatusReconciler
from kmm_cp.reconcilers.namespace import NamespaceReconciler
from kmm_cp.reconcilers.node import NodeReconciler
from kmm_cp.reconcilers.pause import PauseReconciler
from kmm_cp.reconcilers.restore import RestoreReconciler
from kmm_cp.reconcilers.retry import RetryReconciler
from kmm_cp.reconcilers.triggers import Triggers
from kmm_cp.roles.adapters import SecretReader
from kmm_cp.roles.caches import Caches
from kmm_cp.roles.metrics import Metrics
from kmm_cp.runtime.controller import Controller, Reconcile
from kmm_cp.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What the leader runs."""

    controllers: list[Controller[str]]
    pins: Pins
    restore: RestoreReconciler
    restore_controller: Controller[str]
    sessions_changed: Callable[[frozenset[str]], None]
    """Told the nodes that this replica serves whenever they change."""
    adopt_digests: Callable[[], None]
    """Called once the caches are synced, before the controllers start."""
    rules_changed: Callable[[], None]
    """Called when an administrator has changed what holds for all Modules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    client: KubeClient
    events: EventRecorder
    caches: Caches
    live: Live
    pins: Pins
    rules: Callable[[], Rules]
    clock: Clock


def rules_of(settings: Settings) -> Rules:
    """Return what an administrator has set for all Modules."""
    return Rules(
        tolerated_failures=settings.tolerated_failures,
        disconnected_seconds=settings.disconnected_seconds,
    )


def control(
    client: KubeClient,
    caches: Caches,
    events: EventRecorder,
    *,
    rules: Callable[[], Rules],
    metrics: Metrics,
    clock: Clock,
) -> Control:
    """Build everything and connect it to the informers; nothing runs yet."""
    pins = Pins(
        resolver=DigestResolver(),
        secrets=SecretReader(client),
        clock=clock,
        # Late: the triggers need the queues of the controllers that plan with the pins.
        on_change=lambda key: triggers.image_changed(key),
    )
    live = LiveNodes(caches.served.store)
    parts = _Parts(
        client=client,
        events=events,
        caches=caches,
        live=live,
        pins=pins,
        rules=rules,
        clock=clock,
    )
    restore = RestoreReconciler(client=client, events=events, nodes=caches.nodes.store)
    reconciles: Mapping[str, Reconcile[str]] = {
        **_reconciles(parts),
        "restore": restore.reconcile,
    }
    controllers = {
        name: Controller(name, unless_gone(reconcile), clock=clock, observer=metrics)
        for name, reconcile in reconciles.items()
    }
    for controller in controllers.values():
        metrics.watch_controller(controller)
    triggers = _triggers(controllers, caches)
    _listen(caches, triggers, pins)
    _tell_unreadable(caches, events)
    return Control(
        controllers=list(controllers.values()),
        pins=pins,
        restore=restore,
        restore_controller=controllers["restore"],
        sessions_changed=_sessions_handler(live, triggers),
        rules_changed=triggers.rules_changed,
        adopt_digests=lambda: pins.adopt(known_digests(caches.states.store.values())),
    )


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


def _sessions_handler(live: LiveNodes, triggers: Triggers) -> Callable[[frozenset[str]], None]:
    def changed(served: frozenset[str]) -> None:
        before, live.here = live.here, served
        for node in flipped(before, served):
            triggers.liveness_changed(node)

    return changed


def _listen(caches: Caches, triggers: Triggers, pins: Pins) -> None:
    caches.modules.add_handler(triggers.module_changed)
    caches.nodes.add_handler(triggers.node_changed)
    caches.states.add_handler(triggers.state_changed)
    caches.served.add_handler(triggers.served_changed)
    caches.namespaces.add_handler(triggers.namespace_changed)

    def adopt(change: Change[NodeState]) -> None:
        """Pin what a daemon found out where no registry answered the control plane."""
        if change.fresh and change.new is not None:
            pins.adopt(known_digests([change.new]))

    caches.states.add_handler(adopt)


def _tell_unreadable(caches: Caches, events: EventRecorder) -> None:
    def tell(module: Object, error: Exception) -> None:
        metadata = module["metadata"]
        regarding = Regarding.module(metadata["namespace"], metadata["name"], metadata["uid"])
        why = " ".join(str(error).split())
        text = f"Nodes keep what they have of this Module until it is corrected: {why}"
        events.warning(regarding, Event.MODULE_UNREADABLE, text)

    caches.modules.add_unreadable_handler(tell)
