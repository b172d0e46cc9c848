"""The leader's reconcilers, each with what it reads and writes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kmm_common.clock import Clock
from kmm_cp.images.pins import Pins
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.events import EventRecorder
from kmm_cp.kube.informer import Informer
from kmm_cp.policy.daemonset import Wish
from kmm_cp.policy.module_status import Rules
from kmm_cp.reconcilers.connection import ConnectionReconciler
from kmm_cp.reconcilers.daemonset import DaemonSetReconciler
from kmm_cp.reconcilers.label import LabelReconciler
from kmm_cp.reconcilers.live import Live
from kmm_cp.reconcilers.module import ModuleReconciler
from kmm_cp.reconcilers.module_status import ModuleStatusReconciler
from kmm_cp.reconcilers.namespace import NamespaceReconciler
from kmm_cp.reconcilers.node import NodeReconciler
from kmm_cp.reconcilers.pause import PauseReconciler
from kmm_cp.reconcilers.replicas import DeadReplicas
from kmm_cp.reconcilers.retry import RetryReconciler
from kmm_cp.roles.adapters import ConfigMapWriter, SecretReader
from kmm_cp.roles.caches import SERVED_LABELS, Caches
from kmm_cp.roles.leases import ReplicaLeases
from kmm_cp.runtime.controller import Reconcile, Result
from kmm_cp.serving.served import replica_of

DAEMON_SET = "daemonset"
"""The name of the DaemonSet's reconciler, and its only key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What reconcilers are made of."""

    client: KubeClient
    events: EventRecorder
    caches: Caches
    live: Live
    pins: Pins
    namespace: str
    rules: Callable[[], Rules]
    clock: Clock


def reconciles(parts: Parts) -> dict[str, Reconcile[str]]:
    """Return the reconcilers that read all three caches."""
    caches = parts.caches
    shared: dict[str, Any] = {"client": parts.client, "clock": parts.clock}
    views: dict[str, Any] = {"nodes": caches.nodes.store, "states": caches.states.store}
    modules = caches.modules.store
    return {
        "node": once_settled(
            (caches.modules, caches.nodes),
            NodeReconciler(
                **shared,
                **views,
                modules=modules,
                unreadable=modules.unreadable,
                digests=parts.pins,
                live=parts.live,
                observe=caches.states.observe,
            ).reconcile,
        ),
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


def daemon_reconciles(parts: Parts, wish: Wish | None) -> dict[str, Reconcile[str]]:
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


def dead_replicas(parts: Parts) -> DeadReplicas:
    """Return what tidies up after replicas that are gone."""
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


def once_settled(caches: Sequence[Informer[Any]], reconcile: Reconcile[str]) -> Reconcile[str]:
    """Return the reconcile, put off while it is not known that what the caches have is still so.

    After etcd was put back to a backup, one cache may show it already, and another one what was
    before: a state written then would be of Modules that are no more, and would give generations
    anew that the lost states have had.
    """

    async def put_off(key: str) -> Result:
        while unsettled := [each for each in caches if not each.settled.is_set()]:
            await unsettled[0].settled.wait()
        return await reconcile(key)

    return put_off
