"""A real Kubernetes control plane: etcd, kube-apiserver and kube-controller-manager."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kmm_sandbox.binaries import Binaries
from kmm_sandbox.kubeapi import KubeApi
from kmm_sandbox.kubeconfig import write_kubeconfig
from kmm_sandbox.manifests import Kubectl
from kmm_sandbox.pki import Authority, Identity, service_account_key
from kmm_sandbox.ports import KeptPorts
from kmm_sandbox.processes import Launcher, Process, wait_until

READY_SECONDS = 120.0
AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the parts listen."""

    etcd: int = 2379
    etcd_peer: int = 2380
    api: int = 6443

    @classmethod
    def of(cls, kept: KeptPorts) -> "Ports":
        """Return loopback ports that are kept for them."""
        return cls(etcd=kept.port(), etcd_peer=kept.port(), api=kept.port())


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The files of one control plane, and where it listens."""

    directory: Path
    ports: Ports
    address: str = "127.0.0.1"
    """The API server's address for its clients, loopback apart."""
    extra_hosts: Sequence[str] = ()
    """More names for the API server's certificate."""
    apiserver_flags: Sequence[str] = ()

    @property
    def pki(self) -> Path:
        return self.directory / "pki"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def audit_log(self) -> Path:
        return self.directory / "logs" / "audit.log"

    @property
    def ca(self) -> Path:
        return self.pki / "ca.crt"

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.ports.api}"


def etcd_argv(binaries: Binaries, layout: Layout) -> list[str]:
    """Return etcd's command line: loopback, data that nobody will miss."""
    client = f"http://127.0.0.1:{layout.ports.etcd}"
    peer = f"http://127.0.0.1:{layout.ports.etcd_peer}"
    return [
        *(str(binaries.etcd), "--name", "sandbox", "--data-dir", str(layout.directory / "etcd")),
        *("--unsafe-no-fsync", "--log-level", "warn"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"sandbox={peer}"),
    ]


def apiserver_argv(binaries: Binaries, layout: Layout) -> list[str]:
    """Return kube-apiserver's command line: RBAC, audit log, ServiceAccount tokens."""
    pki = layout.pki
    return [
        *(str(binaries.apiserver), "--etcd-servers", f"http://127.0.0.1:{layout.ports.etcd}"),
        *("--bind-address", layout.address, "--advertise-address", layout.address),
        *("--secure-port", str(layout.ports.api), "--client-ca-file", str(layout.ca)),
        *("--tls-cert-file", f"{pki}/apiserver.crt"),
        *("--tls-private-key-file", f"{pki}/apiserver.key"),
        *("--authorization-mode", "Node,RBAC", "--allow-privileged"),
        # As on OpenShift: whoever sets an owner must be allowed to delete what is owned.
        *("--enable-admission-plugins", "OwnerReferencesPermissionEnforcement"),
        *("--service-account-key-file", f"{pki}/sa.pub"),
        *("--service-account-signing-key-file", f"{pki}/sa.key"),
        *("--service-account-issuer", "https://kubernetes.default.svc"),
        *("--service-cluster-ip-range", "10.96.0.0/16", "--endpoint-reconciler-type", "none"),
        *("--audit-policy-file", f"{pki}/audit-policy.yaml"),
        *("--audit-log-path", str(layout.audit_log)),
        *layout.apiserver_flags,
    ]


def controller_manager_argv(binaries: Binaries, layout: Layout) -> list[str]:
    """Return kube-controller-manager's command line; it serves nothing itself."""
    pki, login = layout.pki, str(layout.directory / "controller-manager.kubeconfig")
    return [
        *(str(binaries.controller_manager), "--kubeconfig", login, "--secure-port", "0"),
        *("--leader-elect=false", "--use-service-account-credentials"),
        # With the default of 20 a second its own start is throttled to 5 s.
        *("--kube-api-qps", "200", "--kube-api-burst", "400"),
        *("--service-account-private-key-file", f"{pki}/sa.key"),
        *("--root-ca-file", str(layout.ca)),
        *("--cluster-signing-cert-file", str(layout.ca)),
        *("--cluster-signing-key-file", f"{pki}/ca.key"),
    ]


@dataclass(slots=True, kw_only=True)
class ControlPlane:
    """A running control plane; its state goes with it."""

    binaries: Binaries
    layout: Layout
    launcher: Launcher
    authority: Authority = field(repr=False)
    processes: list[Process] = field(default_factory=list)

    @classmethod
    def start(cls, binaries: Binaries, layout: Layout, *, leashed: bool) -> "ControlPlane":
        """Start all three parts and wait until the API server is ready. Raises SandboxError."""
        launcher = Launcher(logs=layout.logs, leashed=leashed)
        plane = cls(
            binaries=binaries,
            layout=layout,
            launcher=launcher,
            authority=Authority("kubernetes"),
        )
        try:
            plane._write_files()
            plane._start_processes()
        except BaseException:
            plane.stop()
            raise
        return plane

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.layout.directory / "kubeconfig"

    @property
    def kubectl(self) -> Kubectl:
        """An administrator's kubectl."""
        return Kubectl(program=self.binaries.kubectl, kubeconfig=self.kubeconfig)

    def api(self) -> KubeApi:
        """Return a client with an administrator's rights."""
        pki = self.layout.pki
        return KubeApi.login(
            url=self.layout.url,
            ca=self.layout.ca,
            cert=pki / "admin.crt",
            key=pki / "admin.key",
        )

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Return the kubeconfig of a user, known to the API server by a client certificate."""
        path = self.layout.directory / "users" / f"{user.replace(':', '_')}.kubeconfig"
        return self.write_kubeconfig(path, user, groups, server=self.layout.url)

    def write_kubeconfig(
        self, path: Path, user: str, groups: Sequence[str] = (), *, server: str
    ) -> Path:
        """Write a user's kubeconfig for the API server under a given URL."""
        identity = Identity(common_name=user, organizations=tuple(groups), client=True)
        return write_kubeconfig(
            path,
            server=server,
            ca_pem=self.authority.credential.cert_pem,
            user=user,
            credential=self.authority.issue(identity),
        )

    def wait_for_default_service_account(self, namespace: str = "default") -> None:
        """Wait until pods can be created in a namespace."""
        api, path = self.api(), f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        wait_until(
            lambda: api.find(path) is not None,
            seconds=READY_SECONDS,
            what=f"ServiceAccount default in namespace {namespace}",
        )

    def require_alive(self) -> None:
        """Raise SandboxError if one of the three has ended."""
        for process in self.processes:
            process.require_alive()

    def process(self, name: str) -> Process:
        """Return a part by its program's name."""
        return next(process for process in self.processes if process.name == name)

    def restart_apiserver(self) -> None:
        """Kill the API server, start it again and wait until it is ready. Raises SandboxError."""
        old = self.process("kube-apiserver")
        old.kill()
        argv = apiserver_argv(self.binaries, self.layout)
        self.processes[self.processes.index(old)] = self.launcher.start(old.name, argv)
        api = self.api()
        wait_until(
            lambda: self._still_ready(api), seconds=READY_SECONDS, what="kube-apiserver's /readyz"
        )

    def stop(self) -> None:
        """Kill all three: the API server takes half a minute over SIGTERM, and the data goes."""
        for process in reversed(self.processes):
            process.kill()
        self.processes.clear()

    def _write_files(self) -> None:
        layout, pki = self.layout, self.layout.pki
        layout.logs.mkdir(parents=True, exist_ok=True)
        self.authority.credential.write(pki, "ca")
        service_account_key(pki)
        hosts = ["localhost", "kubernetes.default.svc", "127.0.0.1", "10.96.0.1", layout.address]
        server = Identity(
            common_name="kube-apiserver",
            hosts=tuple(dict.fromkeys([*hosts, *layout.extra_hosts])),
            server=True,
        )
        self.authority.issue(server).write(pki, "apiserver")
        admin = Identity(common_name="admin", organizations=("system:masters",), client=True)
        self.authority.issue(admin).write(pki, "admin")
        (pki / "audit-policy.yaml").write_text(AUDIT_POLICY)
        self.write_kubeconfig(self.kubeconfig, "admin", ("system:masters",), server=layout.url)
        self.write_kubeconfig(
            layout.directory / "controller-manager.kubeconfig",
            "system:kube-controller-manager",
            server=layout.url,
        )

    def _start_processes(self) -> None:
        start, binaries, layout = self._start, self.binaries, self.layout
        start("etcd", etcd_argv(binaries, layout))
        start("kube-apiserver", apiserver_argv(binaries, layout))
        api = self.api()
        wait_until(
            lambda: self._still_ready(api), seconds=READY_SECONDS, what="kube-apiserver's /readyz"
        )
        start("kube-controller-manager", controller_manager_argv(binaries, layout))

    def _start(self, name: str, argv: Sequence[str]) -> None:
        self.processes.append(self.launcher.start(name, argv))

    def _still_ready(self, api: KubeApi) -> bool:
        self.require_alive()
        return api.is_ready()
