"""kmm-cp as a process of this machine: its rights and files, its starts and ends."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kmm_sandbox import programs
from kmm_sandbox.controlplane import ControlPlane
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.kubelet import NAMESPACE, SERVICE_ACCOUNT
from kmm_sandbox.nodestates import connected
from kmm_sandbox.pki import Authority, Identity
from kmm_sandbox.processes import Launcher, Process, wait_until
from kmm_sandbox.replicas import Replicas
from kmm_sandbox.repository import REPOSITORY

CRDS = REPOSITORY / "crds"
RBAC = REPOSITORY / "manifests/base/rbac.yaml"
ADMISSION = REPOSITORY / "manifests/base/admission.yaml"
READY_SECONDS = 120.0
STOP_SECONDS = 30.0
"""As a Pod has it by default."""


@dataclass(slots=True, kw_only=True)
class KmmCp:
    """The only replica, on a Kubernetes control plane that has nothing of KMM yet."""

    directory: Path
    launcher: Launcher
    plane: ControlPlane
    authority: Authority = field(default_factory=lambda: Authority("kmm development"))
    """Signs its certificate, and those of daemons."""
    listening: programs.Listening
    process: Process | None = None
    starts: int = 0

    @property
    def config(self) -> Path:
        """Its settings file."""
        return self.directory / "kmm-cp.json"

    @property
    def logs(self) -> list[Path]:
        """JSON lines, one file a start."""
        return [self.launcher.logs / f"kmm-cp.{number}.log" for number in range(1, self.starts + 1)]

    @property
    def replicas(self) -> Replicas:
        """What it tells by its metrics."""
        return Replicas((self.listening.metrics,))

    @property
    def identity(self) -> Identity:
        """What its certificate names."""
        hosts = (programs.SERVER_NAME, self.listening.host, "127.0.0.1")
        return Identity(common_name=programs.SERVER_NAME, hosts=hosts, server=True)

    def install(self) -> None:
        """Apply CRDs, rights and policies as shipped, write its files. Raises SandboxError."""
        self.plane.kubectl.apply_crds(sorted(CRDS.glob("*.yaml")))
        api = self.plane.api()
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        api.ensure("/api/v1/namespaces", namespace)
        self.plane.kubectl.apply(RBAC.read_text())
        self.plane.kubectl.apply(ADMISSION.read_text())
        self.plane.wait_for_default_service_account()
        accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
        api.ensure(accounts, {"metadata": {"name": SERVICE_ACCOUNT}})
        self._write_files()

    def start(self) -> None:
        """Start it and wait until it is ready. Raises SandboxError."""
        self.starts += 1
        argv = programs.control_plane_argv(self.config)
        self.process = self.launcher.start("kmm-cp", argv, log=self.logs[-1])
        wait_until(self._ready, seconds=READY_SECONDS, what="kmm-cp")

    def stop(self) -> int:
        """Stop it as a Pod is stopped; return its exit code."""
        code = self._running().stop(grace=STOP_SECONDS)
        self.process = None
        return code

    def restart(self) -> None:
        """Stop it as a Pod is stopped, and start it again. Raises SandboxError."""
        code = self.stop()
        if code:
            raise SandboxError(f"kmm-cp ended with exit code {code}")
        self.start()

    def kill(self) -> None:
        """End it without a word, as a lost machine does."""
        self._running().kill()
        self.process = None

    def require_alive(self) -> None:
        """Raise SandboxError if it has ended by itself."""
        if self.process is not None:
            self.process.require_alive()

    def connected(self, nodes: Iterable[str]) -> bool:
        """Tell whether every node's daemon has a session with it. SandboxError if it has ended."""
        self.require_alive()
        return connected(self.plane.api()) >= set(nodes)

    def _running(self) -> Process:
        if self.process is None:
            raise SandboxError("kmm-cp does not run")
        return self.process

    def _write_files(self) -> None:
        tls = self.directory / "tls"
        self.authority.issue(self.identity).write(tls, "kmm-cp")
        (tls / "ca.crt").write_bytes(self.authority.credential.cert_pem)
        kubeconfig = self.plane.kubeconfig_for(programs.USER, programs.GROUPS)
        settings = programs.control_plane_settings(kubeconfig, tls, self.listening)
        programs.write_settings(self.config, settings)

    def _ready(self) -> bool:
        self.require_alive()
        log = self.logs[-1]
        return log.exists() and b'"caches synced"' in log.read_bytes()
