"""What the serving side notices, as events and as metrics."""

import logging
from collections.abc import Mapping

from kmm_common.api.names import Event
from kmm_common.clock import Clock
from kmm_common.logs import log
from kmm_common.tls import PodIdentity
from kmm_cp.kube.events import EventRecorder, Regarding
from kmm_cp.policy.values import Node
from kmm_cp.roles.metrics import Metrics
from kmm_cp.runtime.queue import Queue
from kmm_cp.serving.ports import PodFacts, Refusal
from kmm_cp.serving.rarely import Rarely
from kmm_cp.serving.restore import Restorer
from kmm_cp.serving.updates import Kind

logger = logging.getLogger(__name__)


class ServingObserver:
    """serving.ports.Observer."""

    def __init__(
        self,
        *,
        events: EventRecorder,
        metrics: Metrics,
        nodes: Mapping[str, Node],
        pods: Mapping[str, PodFacts],
        namespace: str,
        restore: Restorer,
        restore_queue: Queue[str],
        clock: Clock,
    ) -> None:
        """`namespace` is the control plane's own."""
        self._events = events
        self._metrics = metrics
        self._nodes = nodes
        self._pods = pods
        self._namespace = namespace
        self._restore = restore
        self._restore_queue = restore_queue
        self._rarely = Rarely(clock)

    def refused(self, identity: PodIdentity | None, refusal: Refusal, message: str) -> None:
        self._metrics.refused(refusal)
        # A daemon of a pod that is being replaced is nobody's fault.
        if refusal is Refusal.POD_DELETING:
            return
        regarding = self._subject(identity)
        if not self._rarely((regarding, refusal)):
            return
        peer = f"{identity.namespace}/{identity.name}" if identity else ""
        log(logger, logging.WARNING, "peer refused", peer=peer, reason=refusal, error=message)
        text = f"peer {peer or 'without a pod in its certificate'}: {message}"
        self._events.warning(regarding, Event.IDENTITY_REFUSED, text)

    def turned_away(self, refusal: Refusal) -> None:
        self._metrics.refused(refusal)

    def flapping(self, node: str, takeovers: int) -> None:
        self._metrics.flapping()
        known = self._nodes.get(node)
        if known is not None and self._rarely((Event.SESSION_FLAPPING, node)):
            text = f"daemons of this node took its session from each other {takeovers} times"
            self._events.warning(Regarding.node(node, known.uid), Event.SESSION_FLAPPING, text)

    def ahead(self, node: str, uid: str, generation: int) -> None:
        self._restore.behind[node] = uid
        self._restore_queue.add(node)

    def sent(self, kind: Kind) -> None:
        self._metrics.sent(kind)

    def _subject(self, identity: PodIdentity | None) -> Regarding:
        """Return the pod that a peer names if there is one of that name, else our namespace."""
        if identity is not None:
            facts = self._pods.get(f"{identity.namespace}/{identity.name}")
            if facts is not None:
                return Regarding.pod(identity.namespace, identity.name, facts.uid)
        return Regarding.namespace_itself(self._namespace)
