"""What Prometheus sees of the control plane; no label grows with nodes or Modules."""

from collections.abc import Callable, Sized
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from kmm_cp.runtime.controller import Controller, Outcome
from kmm_cp.serving.ports import Refusal
from kmm_cp.serving.updates import Kind

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)
_STALLS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Metrics:
    """The control plane's metrics, in a registry of their own.

    It is the observer of controllers (runtime.controller) and of the API client (kube.client).
    """

    def __init__(self, *, version: str) -> None:
        self._registry = registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        build = Info("kmm_cp_build", "The program that runs.", registry=registry)
        build.info({"version": version})
        self._modules = gauge("kmm_module_num", "Modules in the cluster.")
        self._sessions = gauge("kmm_cp_sessions", "Nodes that have a session with this replica.")
        self._leader = gauge("kmm_cp_leader", "1 while this replica leads.")
        self._terms = counter("kmm_cp_leader_terms", "Times that this replica began to lead.")
        self._updates = counter("kmm_cp_updates", "Updates sent to daemons by kind.", ["kind"])
        self._refused = counter(
            "kmm_cp_refused_peers",
            "Peers that are not served, by reason.",
            ["reason"],
        )
        self._flapping = counter(
            "kmm_cp_sessions_flapping",
            "Times that several daemons took a node's session from each other.",
        )
        self._writes = counter(
            "kmm_cp_api_writes", "Writes to the API server by answer.", ["resource", "verb", "code"]
        )
        self._reconciles = counter(
            "kmm_cp_reconciles", "Reconciles by result.", ["controller", "result"]
        )
        self._durations = Histogram(
            "kmm_cp_reconcile_duration_seconds",
            "Time of a reconcile.",
            ["controller"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._lateness = Histogram(
            "kmm_cp_event_loop_stall_seconds",
            "How late the event loop was, measured four times a second.",
            buckets=_STALLS,
            registry=registry,
        )
        self._settings = gauge(
            "kmm_cp_config_last_reload_successful",
            "1 unless the settings file has become wrong since the start.",
        )
        self._settings.set(1)
        self._neighbours = gauge(
            "kmm_cp_neighbours", "Other KMMs that are active on the Modules of this cluster."
        )
        self._depth = gauge("kmm_cp_queue_depth", "Keys waiting for a worker.", ["controller"])
        for kind in Kind:
            self._updates.labels(kind.value)
        for refusal in Refusal:
            self._refused.labels(refusal.value)

    def watch_modules(self, modules: Sized) -> None:
        """Tell from now on how many Modules there are."""
        self._modules.set_function(lambda: len(modules))

    def watch_sessions(self, nodes: Callable[[], Sized]) -> None:
        """Tell from now on how many nodes are served."""
        self._sessions.set_function(lambda: len(nodes()))

    def watch_settings(self, right: Callable[[], bool]) -> None:
        """Tell from now on whether the settings file can be taken as it is."""
        self._settings.set_function(lambda: float(right()))

    def watch_leading(self, leading: Callable[[], bool]) -> None:
        """Tell from now on whether this replica leads."""
        self._leader.set_function(lambda: float(leading()))

    def elected(self) -> None:
        """Count a term of this replica."""
        self._terms.inc()

    def watch_controller(self, controller: Controller[str]) -> None:
        """Tell from now on how many keys wait in a controller's queue, and count from zero."""
        for outcome in Outcome:
            self._reconciles.labels(controller.name, outcome.value)
        self._durations.labels(controller.name)
        depth = self._depth.labels(controller.name)
        depth.set_function(lambda: controller.queue.statistics().ready)

    def reconciled(self, controller: str, outcome: Outcome, seconds: float) -> None:
        """Count a reconcile."""
        self._reconciles.labels(controller, outcome.value).inc()
        self._durations.labels(controller).observe(seconds)

    def late(self, seconds: float) -> None:
        """Count a look at how late the event loop is."""
        self._lateness.observe(seconds)

    def written(self, *, resource: str, verb: str, code: str) -> None:
        """Count a write to the API server."""
        self._writes.labels(resource, verb, code).inc()

    def sent(self, kind: Kind) -> None:
        """Count an update that a daemon was sent."""
        self._updates.labels(kind.value).inc()

    def refused(self, refusal: Refusal) -> None:
        """Count a peer that is not served."""
        self._refused.labels(refusal.value).inc()

    def flapping(self) -> None:
        """Count a node whose daemons take its session from each other."""
        self._flapping.inc()

    def neighbours(self, count: int) -> None:
        """Tell how many other KMMs are active."""
        self._neighbours.set(count)

    def exposition(self) -> bytes:
        """Return Prometheus' text format."""
        return generate_latest(self._registry)
