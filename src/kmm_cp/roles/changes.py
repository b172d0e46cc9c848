"""What sets the leader's reconcilers off: which change in which cache."""

from collections.abc import Mapping
from typing import Any

from kmm_common.api.names import Event
from kmm_cp.images.pins import Pins
from kmm_cp.kube.client import Object
from kmm_cp.kube.events import EventRecorder, Regarding
from kmm_cp.kube.informer import Change, Handler, Informer, UnreadableHandler
from kmm_cp.policy.digests import known_digests
from kmm_cp.policy.values import NodeState
from kmm_cp.reconcilers.triggers import Triggers
from kmm_cp.roles.caches import Caches
from kmm_cp.roles.reconcilers import DAEMON_SET
from kmm_cp.runtime.controller import Controller


def triggers_of(controllers: Mapping[str, Controller[str]], caches: Caches) -> Triggers:
    """Return the triggers that fill the queues of these controllers."""
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


def handlers(
    caches: Caches, triggers: Triggers, pins: Pins
) -> list[tuple[Informer[Any], Handler[Any]]]:
    """Return who listens to which cache."""

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


def daemon_handlers(
    caches: Caches, controllers: Mapping[str, Controller[str]]
) -> list[tuple[Informer[Any], Handler[Any]]]:
    """Return who listens to what the daemon's DaemonSet is made of, where that is ours."""
    controller = controllers.get(DAEMON_SET)
    if controller is None or caches.daemon is None:
        return []

    def changed(_change: Change[Object]) -> None:
        controller.queue.add(DAEMON_SET)

    return [(caches.daemon.templates, changed), (caches.daemon.daemon_sets, changed)]


def unreadable_teller(events: EventRecorder) -> UnreadableHandler:
    """Return what tells of a Module that cannot be read, in an event."""

    def tell(module: Object, error: Exception) -> None:
        metadata = module["metadata"]
        regarding = Regarding.module(metadata["namespace"], metadata["name"], metadata["uid"])
        why = " ".join(str(error).split())
        text = f"Nodes keep what they have of this Module until it is corrected: {why}"
        events.warning(regarding, Event.MODULE_UNREADABLE, text)

    return tell
