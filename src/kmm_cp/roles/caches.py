"""The informers of a control plane, and what each makes of an object."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from kmm_common.api.module import Module
from kmm_common.clock import Clock
from kmm_cp.kube.client import KubeClient, Object
from kmm_cp.kube.history import History
from kmm_cp.kube.informer import Informer
from kmm_cp.kube.resources import (
    CONFIG_MAPS,
    DAEMON_SETS,
    MODULES,
    NAMESPACES,
    NODE_MODULES_STATES,
    NODES,
    POD_TEMPLATES,
    PODS,
    Resource,
)
from kmm_cp.policy.values import Node, NodeState
from kmm_cp.reconcilers.live import Listed
from kmm_cp.roles.adapters import pod_facts
from kmm_cp.serving.ports import PodFacts
from kmm_cp.serving.served import nodes_in

T = TypeVar("T")

SERVED_LABELS = {"app.kubernetes.io/part-of": "kmm", "kmm.node.kubernetes.io/list": "served"}
_SERVED_SELECTOR = ",".join(f"{key}={value}" for key, value in SERVED_LABELS.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonCaches:
    """What the daemon's DaemonSet is, and what it is made of; of the operator's namespace."""

    daemon_sets: Informer[Object]
    templates: Informer[Object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caches:
    """One informer a resource; Pods and ConfigMaps of the operator's namespace only."""

    modules: Informer[Module]
    nodes: Informer[Node]
    states: Informer[NodeState]
    pods: Informer[PodFacts]
    namespaces: Informer[Mapping[str, str]]
    served: Informer[Listed]
    history: History
    """Of the server, as all of them know it."""
    daemon: DaemonCaches | None
    """None where the daemon's DaemonSet is somebody else's."""

    def all(self) -> list[Informer[Any]]:
        """Return all of them."""
        shared = (self.modules, self.nodes, self.states, self.pods, self.namespaces, self.served)
        daemon = (self.daemon.daemon_sets, self.daemon.templates) if self.daemon else ()
        return [*shared, *daemon]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """What all informers of a control plane have in common."""

    client: KubeClient
    clock: Clock
    history: History

    def informer(
        self,
        resource: Resource,
        decode: Callable[[Object], T],
        *,
        namespace: str = "",
        label_selector: str = "",
    ) -> Informer[T]:
        return Informer(
            self.client,
            resource,
            decode,
            clock=self.clock,
            namespace=namespace,
            label_selector=label_selector,
            history=self.history,
        )


def caches(
    client: KubeClient, *, namespace: str, clock: Clock, owns_daemon: bool = False
) -> Caches:
    """Build the informers; nothing runs yet."""
    shared = _Shared(client=client, clock=clock, history=History())
    nodes: Informer[Node] = shared.informer(
        NODES, lambda content: _timed(content, nodes.store, clock)
    )
    return Caches(
        modules=shared.informer(MODULES, Module.from_object),
        nodes=nodes,
        states=shared.informer(NODE_MODULES_STATES, NodeState.from_object),
        pods=shared.informer(PODS, pod_facts, namespace=namespace),
        namespaces=shared.informer(NAMESPACES, _labels),
        served=shared.informer(
            CONFIG_MAPS, _listed, namespace=namespace, label_selector=_SERVED_SELECTOR
        ),
        history=shared.history,
        daemon=_daemon(shared, namespace) if owns_daemon else None,
    )


def _daemon(shared: _Shared, namespace: str) -> DaemonCaches:
    return DaemonCaches(
        daemon_sets=shared.informer(DAEMON_SETS, _whole, namespace=namespace),
        templates=shared.informer(POD_TEMPLATES, _whole, namespace=namespace),
    )


def _whole(content: Object) -> Object:
    return content


def _timed(content: Object, known: Mapping[str, Node], clock: Clock) -> Node:
    """Decode a Node; its taints have the time they were first seen, where they have none."""
    node = Node.from_object(content)
    return node.with_taints_timed(known.get(node.name), clock.now())


def _labels(namespace: Object) -> Mapping[str, str]:
    return namespace["metadata"].get("labels") or {}


def _listed(config_map: Object) -> Listed:
    return nodes_in(config_map.get("data") or {})
