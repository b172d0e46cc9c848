"""approver-policy in the place of cert-manager's own approver, everybody with rights of their own.

approver-policy and cert-manager's controllers are the ServiceAccounts that their charts make.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kmm_sandbox.kubeapi import KubeApi
from kmm_sandbox.pki import Identity
from kmm_sandbox.ports import KeptPorts
from kmm_sandbox.processes import wait_until
from kmm_sandbox.progress import Progress
from support.certmanager import (
    NAMESPACE,
    READY_SECONDS,
    running,
    running_cert_manager,
    running_webhook,
)
from support.cluster import Cluster
from support.goprogram import GoProgram

APPROVER_POLICY = GoProgram(
    name="approver-policy",
    source=Path(__file__).parent,
    package="github.com/cert-manager/approver-policy/cmd",
    upstream="github.com/cert-manager/approver-policy",
)
CERT_MANAGER, CSI_DRIVER = "cert-manager", "cert-manager-csi-driver"
"""ServiceAccounts of cert-manager's namespace."""
POLICIES = "/apis/policy.cert-manager.io/v1alpha1/certificaterequestpolicies"
_APPROVER = "cert-manager-approver-policy"
_RIGHTS = Path(__file__).parent / "rights.yaml"


def user(account: str) -> str:
    """Return how the API server calls a ServiceAccount of cert-manager's namespace."""
    return f"system:serviceaccount:{NAMESPACE}:{account}"


def api_of(cluster: Cluster, account: str) -> KubeApi:
    """Return the requests of a ServiceAccount of cert-manager's namespace."""
    identity = Identity(common_name=user(account), client=True)
    place = cluster.plane.layout.directory / "users"
    cert, key = cluster.plane.authority.issue(identity).write(place, account)
    return KubeApi.login(url=cluster.url, ca=cluster.ca, cert=cert, key=key)


@contextmanager
def running_approver_policy(cluster: Cluster, directory: Path) -> Iterator[None]:
    """Run it, with cert-manager's controllers, webhook and cainjector, until the block ends."""
    found = APPROVER_POLICY.find(Progress())
    cluster.kubectl.apply_crds(found.crds)
    cluster.api.ensure("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    cluster.kubectl("apply", "-f", str(_RIGHTS))
    with ExitStack() as stack:
        controllers = running_cert_manager(
            cluster,
            directory,
            approver=False,
            kubeconfig=cluster.kubeconfig_for(user(CERT_MANAGER)),
        )
        stack.enter_context(controllers)
        stack.enter_context(running_webhook(cluster, directory))
        arguments = _arguments(cluster, stack.enter_context(KeptPorts()))
        stack.enter_context(running(APPROVER_POLICY, directory, *arguments))
        yield


def _arguments(cluster: Cluster, ports: KeptPorts) -> list[str]:
    addresses = ("metrics-bind-address", "readiness-probe-bind-address")
    return [
        f"--kubeconfig={cluster.kubeconfig_for(user(_APPROVER))}",
        "--webhook-host=127.0.0.1",
        f"--webhook-port={ports.port()}",
        *(f"--{name}={ports.address()}" for name in addresses),
        f"--webhook-ca-secret-namespace={NAMESPACE}",
        f"--leader-election-namespace={NAMESPACE}",
    ]


def apply_policies(cluster: Cluster, manifest: Path) -> None:
    """Apply a manifest of policies, and wait until approver-policy says that it uses them."""
    cluster.kubectl("apply", "-f", str(manifest))

    def ready() -> bool:
        return all(
            any(
                one["type"] == "Ready" and one["status"] == "True"
                for one in policy.get("status", {}).get("conditions", ())
            )
            for policy in cluster.api.items(POLICIES)
        )

    wait_until(ready, seconds=READY_SECONDS, what="policies Ready")
