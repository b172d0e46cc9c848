"""What Prometheus sees of the daemon; no label grows with the number of Modules."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable
from math import nan
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from kmm_common import certificate
from kmm_common.desired import ModuleState, ReportedModule
from kmm_common.tls import TlsFilesError

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0)
_STALLS = (0.1, 1.0, 10.0)
"""Few: every node of a fleet has them."""


class Metrics:
    """The daemon's metrics, in a registry of their own."""

    def __init__(self, *, version: str) -> None:
        self._registry = registry = CollectorRegistry()
        build = Info("kmm_daemon_build", "The program that runs.", registry=registry)
        build.info({"version": version})
        self._steps = {
            "load": Counter("kmm_daemon_loads", "Loads by result.", ["result"], registry=registry),
            "unload": Counter(
                "kmm_daemon_unloads", "Unloads by result.", ["result"], registry=registry
            ),
        }
        self._failures = Counter(
            "kmm_daemon_failures", "Failed steps by reason.", ["reason"], registry=registry
        )
        self._durations = Histogram(
            "kmm_daemon_step_duration_seconds",
            "Time of loads and unloads.",
            ["step"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._drift = Counter(
            "kmm_daemon_drift", "Modules that vanished from the kernel.", registry=registry
        )
        self._session = Gauge(
            "kmm_daemon_session_connected", "1 with a live session.", registry=registry
        )
        self._generation = Gauge(
            "kmm_daemon_desired_generation", "Newest generation accepted.", registry=registry
        )
        self._modules = Gauge(
            "kmm_daemon_modules", "Modules by state.", ["state"], registry=registry
        )
        self._unended = Gauge(
            "kmm_daemon_unended_processes",
            "modprobe and rmmod processes that outlived their step.",
            registry=registry,
        )
        self._expiration = Gauge(
            "kmm_daemon_certificate_expiration_timestamp_seconds",
            "When the certificate in tls.cert ends, in Unix time; NaN if it cannot be read.",
            registry=registry,
        )
        self._expiration.set(nan)
        self._enrolments = Counter(
            "kmm_daemon_enrolments",
            "Attempts to get a certificate from the control plane, by result.",
            ["result"],
            registry=registry,
        )
        self._turns = Histogram(
            "kmm_daemon_event_loop_stall_seconds",
            "Time of one turn of the event loop, in which nothing else has a turn.",
            buckets=_STALLS,
            registry=registry,
        )
        self._settings = Gauge(
            "kmm_daemon_config_last_reload_successful",
            "1 unless the settings file has become wrong since the start.",
            registry=registry,
        )
        self._settings.set(1)
        for counter in (*self._steps.values(), self._enrolments):
            counter.labels("ok")
            counter.labels("failed")
        self.modules(())

    def step(self, kind: str, seconds: float, *, ok: bool) -> None:
        """Count the end of a load or unload."""
        self._steps[kind].labels("ok" if ok else "failed").inc()
        self._durations.labels(kind).observe(seconds)

    def turn(self, seconds: float) -> None:
        """Count a turn of the event loop."""
        self._turns.observe(seconds)

    def failure(self, reason: str) -> None:
        """Count a failed step by its reason."""
        self._failures.labels(reason).inc()

    def vanished(self) -> None:
        """Count a module that somebody else took out of the kernel."""
        self._drift.inc()

    def unended(self, processes: int) -> None:
        """Set how many processes have not ended that no step waits for."""
        self._unended.set(processes)

    def certificate(self, path: Path) -> None:
        """Tell at every scrape when the certificate in a file ends: it is renewed meanwhile."""
        self._expiration.set_function(lambda: _expiry(path))

    def watch_settings(self, right: Callable[[], bool]) -> None:
        """Tell from now on whether the settings file can be taken as it is."""
        self._settings.set_function(lambda: float(right()))

    def session(self, *, connected: bool, problem: str = "") -> None:
        """Set whether there is a session with the control plane."""
        self._session.set(connected)

    def enrolled(self, *, ok: bool) -> None:
        """Count an attempt to get a certificate."""
        self._enrolments.labels("ok" if ok else "failed").inc()

    def generation(self, generation: int) -> None:
        """Set the generation of the accepted desired state."""
        self._generation.set(generation)

    def modules(self, modules: Iterable[ReportedModule]) -> None:
        """Set how many Modules are in which state."""
        tally = Tally(module.state for module in modules)
        for state in ModuleState:
            self._modules.labels(state.value).set(tally[state])

    def exposition(self) -> bytes:
        """Return Prometheus' text format."""
        return generate_latest(self._registry)


def _expiry(path: Path) -> float:
    try:
        return certificate.expiry(path).timestamp()
    except TlsFilesError:
        return nan
