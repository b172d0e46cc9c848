"""One real Kubernetes control plane on loopback, as tests see it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kmm_sandbox.binaries import KubernetesRelease, find_binaries
from kmm_sandbox.controlplane import ControlPlane, Layout, Ports
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.kubeapi import KubeApi
from kmm_sandbox.manifests import Kubectl
from kmm_sandbox.ports import KeptPorts
from kmm_sandbox.progress import Progress
from support import rights

CRDS = Path(__file__).resolve().parents[2] / "crds"
RELEASE = "KMM_TEST_KUBERNETES"
"""Variable of the environment: a name of KubernetesRelease; the newest without it."""


def release() -> KubernetesRelease:
    """Return the release that the tests of this process run against. Raises SandboxError."""
    name = os.environ.get(RELEASE, KubernetesRelease.NEWEST.name)
    try:
        return KubernetesRelease[name]
    except KeyError as error:
        known = " or ".join(each.name for each in KubernetesRelease)
        raise SandboxError(f"{RELEASE}={name}: it is {known}, or not set") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where the API server is, and administrators' ways in."""

    plane: ControlPlane
    api: KubeApi
    """An administrator's requests, synchronous."""
    kubectl: Kubectl
    meant_refusals: set[rights.Call] = field(default_factory=set)
    """What tests have kmm-cp ask for though it may not."""

    @property
    def kubeconfig(self) -> Path:
        return self.plane.kubeconfig

    @property
    def url(self) -> str:
        return self.plane.layout.url

    @property
    def ca(self) -> Path:
        return self.plane.layout.ca

    @property
    def cert(self) -> Path:
        return self.plane.layout.pki / "admin.crt"

    @property
    def key(self) -> Path:
        return self.plane.layout.pki / "admin.key"

    @property
    def audit_log(self) -> Path:
        """JSON lines, one a request, Metadata level."""
        return self.plane.layout.audit_log

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Return the kubeconfig of a user who has only the rights that RBAC gives."""
        return self.plane.kubeconfig_for(user, groups)


@contextmanager
def running_cluster(directory: Path) -> Iterator[Cluster]:
    """Start a control plane with KMM's CRDs; stop it, with all it holds, at the end."""
    binaries = find_binaries(Progress(), release())
    with KeptPorts() as ports:
        layout = Layout(directory=directory, ports=Ports.of(ports))
        plane = ControlPlane.start(binaries, layout, leashed=True)
        try:
            kubectl = Kubectl(program=binaries.kubectl, kubeconfig=plane.kubeconfig)
            kubectl.apply_crds(sorted(CRDS.glob("*.yaml")))
            plane.wait_for_default_service_account()
            cluster = Cluster(plane=plane, api=plane.api(), kubectl=kubectl)
            yield cluster
            rights.leave(cluster.audit_log, cluster.meant_refusals)
        finally:
            plane.stop()
