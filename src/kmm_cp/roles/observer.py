"""What the serving side notices, as events on Nodes and as metrics."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter

from kmm_common.api.names import Event
from kmm_common.tls import PodIdentity
from kmm_cp.kube.events import EventRecorder, Regarding
from kmm_cp.policy.values import Node
from kmm_cp.reconcilers.restore import RestoreReconciler
from kmm_cp.runtime.queue import Queue


class ServingObserver:
    """serving.ports.Observer."""

    def __init__(
        self,
        *,
        events: EventRecorder,
        nodes: Mapping[str, Node],
        restore: RestoreReconciler,
        restore_queue: Queue[str],
        registry: CollectorRegistry,
    ) -> None:
        self._events = events
        self._nodes = nodes
        self._restore = restore
        self._restore_queue = restore_queue
        self._refused = Counter(
            "kmm_cp_peers_refused_total", "Peers that are no daemon of a node", registry=registry
        )
        self._flapping = Counter(
            "kmm_cp_sessions_flapping_total",
            "Times that several daemons took a node's session from each other",
            registry=registry,
        )

    def refused(self, identity: PodIdentity | None, reason: str) -> None:
        self._refused.inc()

    def flapping(self, node: str, takeovers: int) -> None:
        self._flapping.inc()
        text = f"daemons of this node took its session from each other {takeovers} times"
        known = self._nodes.get(node)
        if known is not None:
            self._events.warning(Regarding.node(node, known.uid), Event.SESSION_FLAPPING, text)

    def ahead(self, node: str, uid: str, generation: int) -> None:
        self._restore.behind[node] = uid
        self._restore_queue.add(node)
