"""What the serving side notices, as events and as metrics."""

import logging
from collections.abc import Hashable, Mapping

from kmm_common.api.names import Event
from kmm_common.clock import Clock
from kmm_common.logs import log
from kmm_common.tls import PodIdentity
from kmm_cp.kube.events import EventRecorder, Regarding
from kmm_cp.policy.values import Node
from kmm_cp.reconcilers.restore import RestoreReconciler
from kmm_cp.roles.metrics import Metrics
from kmm_cp.runtime.queue import Queue
from kmm_cp.serving.ports import PodFacts, Refusal
from kmm_cp.serving.updates import Kind

logger = logging.getLogger(__name__)

QUIET_SECONDS = 600.0
"""A peer that is refused comes back every few seconds; its event does not."""
MOST_TOLD = 100
"""Different things that are told in that time; whoever can make certificates can make many."""


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
        restore: RestoreReconciler,
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
        self._rarely = _Rarely(clock)

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


class _Rarely:
    """Lets a thing through once in a while, and no more than so many things in that while."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[Hashable, float] = {}
        """Monotonic time by thing."""

    def __call__(self, thing: Hashable) -> bool:
        now = self._clock.monotonic()
        self._told = {one: at for one, at in self._told.items() if now - at < QUIET_SECONDS}
        if thing in self._told or len(self._told) >= MOST_TOLD:
            return False
        self._told[thing] = now
        return True
