"""kmm-cp as a process against a real API server, with only the rights that its manifest gives."""

import http.client
import json
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.ports import KeptPorts
from kmm_sandbox.processes import Launcher, Process, wait_until
from kmm_sandbox.programs import GROUPS, USER
from support import rights
from support.certificates import NAMESPACE, SERVICE_ACCOUNT, Certificates
from support.cluster import Cluster
from support.history import Line, facts

_RECONCILES = re.compile(
    r'kmm_cp_reconciles_total\{controller="(?P<controller>[^"]*)",.*\} (?P<count>[0-9.e+]+)'
)
START_SECONDS = 240.0
STOP_SECONDS = 20.0


@dataclass(slots=True, kw_only=True)
class KmmCp:
    """One control plane over its restarts; its log is one file."""

    cluster: Cluster
    directory: Path
    certificates: Certificates
    """Of daemons, by the authority that this control plane trusts."""
    settings: dict[str, Any]
    process: Process | None = None
    program: Sequence[str] = ("-m", "kmm_cp.cli")
    """What Python is to run."""
    ports: KeptPorts = field(default_factory=KeptPorts, repr=False)
    """Where it listens: nobody else gets one of them before close(), also while it is down."""
    _starter: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), repr=False)
    """Its thread holds the leash: a leashed process ends with the thread that started it."""

    @property
    def name(self) -> str:
        """Of the replica."""
        return str(self.settings["replica"])

    @property
    def port(self) -> int:
        """Where daemons connect."""
        return int(str(self.settings["listen"]).rpartition(":")[2])

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive

    @property
    def log(self) -> Path:
        return self.directory / "kmm-cp.log"

    @property
    def configuration(self) -> Path:
        """Its settings file."""
        return self.directory / "kmm-cp.yaml"

    def start(self) -> None:
        """Start it and wait until its caches are synced."""
        self.launch()
        wait_until(self.is_ready, seconds=START_SECONDS, what="kmm-cp's /readyz")

    def configure(self, **changes: Any) -> None:
        """Write its settings file, with changes that hold until it is written again."""
        self.configuration.write_text(yaml.safe_dump({**self.settings, **changes}))

    def launch(self) -> None:
        """Start it; do not wait."""
        self.configure()
        argv = [sys.executable, *self.program, "--config", str(self.configuration)]
        launcher = Launcher(logs=self.directory, leashed=True)
        starting = self._starter.submit(launcher.start, "kmm-cp", argv, log=self.log)
        self.process = starting.result(START_SECONDS)

    def ask_to_stop(self) -> None:
        """Send what Kubernetes sends first; do not wait."""
        assert self.process is not None
        self.process.signal(signal.SIGTERM)

    def stop(self) -> int:
        """End it as Kubernetes does; return the exit code."""
        assert self.process is not None
        return self.process.stop(grace=STOP_SECONDS)

    def kill(self) -> None:
        """End it as a power cut does."""
        assert self.process is not None
        self.process.signal(signal.SIGKILL)
        self.process.kill()

    def close(self) -> None:
        """Give up whatever is left."""
        if self.process is not None:
            self.process.kill()
        self._starter.shutdown()
        self.ports.close()

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def facts(self) -> Iterator[Line]:
        """Yield the facts that it logged."""
        return facts(self.log) if self.log.exists() else iter(())

    def told(self, message: str, **fields: object) -> list[Line]:
        """Return the log lines with a message and these fields."""
        texts = self.log.read_text().splitlines()
        lines = (json.loads(text) for text in texts if text[:1] == "{")
        wanted = {"msg": message, **fields}.items()
        return [line for line in lines if wanted <= line.items()]

    def refusals(self) -> set[str]:
        """Return what the API server forbade it, and no test meant."""
        with self.cluster.audit_log.open() as lines:
            use = rights.use_of(rights.calls(lines), rights.rights(), self.cluster.meant_refusals)
        return set(use.refused)

    def audited(self, since: int = 0) -> Iterator[Line]:
        """Yield what the audit log has of its requests, from a position on."""
        with self.cluster.audit_log.open("rb") as log:
            log.seek(since)
            for line in map(json.loads, log):
                if line["user"]["username"] == USER:
                    yield line

    def reconciles(self) -> Counter[str]:
        """Count the reconciles of this process by controller."""
        counts: Counter[str] = Counter()
        for line in self.metrics().splitlines():
            if found := _RECONCILES.fullmatch(line):
                counts[found["controller"]] += int(float(found["count"]))
        return counts

    def leads(self) -> bool:
        """Tell whether it says that it leads; one that does not answer does not say so."""
        try:
            return "\nkmm_cp_leader 1.0" in self.metrics()
        except OSError:
            return False

    def metrics(self) -> str:
        """Return what it answers to Prometheus."""
        return self._get("/metrics")[1]

    def is_ready(self) -> bool:
        """Tell whether /readyz says that its caches are synced."""
        return self.probe("/readyz") == 200

    def probe(self, path: str) -> int:
        """Return the status that it answers a probe with; 0 if it does not answer."""
        assert self.process is not None
        self.process.require_alive()
        try:
            return self._get(path)[0]
        except OSError:
            return 0

    def _get(self, path: str) -> tuple[int, str]:
        host, _, port = str(self.settings["metrics_listen"]).rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@contextmanager
def running_control_plane(cluster: Cluster, directory: Path) -> Iterator[KmmCp]:
    """Run kmm-cp as the user of its manifest; stop it at the end, which must go well."""
    prepare_cluster(cluster)
    control_plane = new_control_plane(cluster, directory)
    control_plane.start()
    try:
        yield control_plane
        code = control_plane.stop()
        if code:
            raise SandboxError(f"kmm-cp ended with exit code {code}", reason="ProcessDied")
        if refused := sorted(control_plane.refusals()):
            raise SandboxError(f"kmm-cp has too few rights: {refused}", reason="Forbidden")
    finally:
        control_plane.close()


def new_control_plane(
    cluster: Cluster, directory: Path, *, certificates: Certificates | None = None
) -> KmmCp:
    """Return a control plane that is not started yet."""
    certificates = certificates or Certificates(directory / "link-pki")
    files, ports = certificates.server(), KeptPorts()
    settings = {
        "kubeconfig": str(cluster.kubeconfig_for(USER, GROUPS)),
        "namespace": NAMESPACE,
        "replica": "only",
        "listen": ports.address(),
        "metrics_listen": ports.address(),
        "tls": {"cert": str(files.cert), "key": str(files.key), "ca": str(files.ca)},
        "log_format": "json",
    }
    return KmmCp(
        cluster=cluster,
        directory=directory,
        certificates=certificates,
        settings=settings,
        ports=ports,
    )


def prepare_cluster(cluster: Cluster) -> None:
    """Make the operator's namespace, the daemons' service account and the rights of kmm-cp."""
    cluster.api.ensure("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    cluster.api.ensure(accounts, {"metadata": {"name": SERVICE_ACCOUNT}})
    cluster.kubectl("apply", "-f", str(rights.MANIFEST))
