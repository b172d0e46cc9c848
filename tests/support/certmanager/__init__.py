"""cert-manager's own controllers, cainjector and webhook against a real API server."""

import base64
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from kmm_sandbox.kubeapi import KubeApi, Object
from kmm_sandbox.ports import KeptPorts
from kmm_sandbox.processes import Launcher, Process, wait_until
from kmm_sandbox.progress import Progress
from support.certvolume import CERT
from support.cluster import Cluster
from support.goprogram import GoProgram

NAMESPACE = "cert-manager"
_SECRET = "cert-manager-webhook-ca"
_UPSTREAM = "github.com/cert-manager/cert-manager"
_HOOKS = "/apis/admissionregistration.k8s.io/v1"
READY_SECONDS = 60.0


def _program(name: str, package: str) -> GoProgram:
    source = Path(__file__).parent
    return GoProgram(name=name, source=source, package=package, upstream=_UPSTREAM)


CONTROLLER = _program("cert-manager", "./controller")
CAINJECTOR = _program("cert-manager-cainjector", "./cainjector")
WEBHOOK = _program("cert-manager-webhook", "./webhook")


@contextmanager
def running_cert_manager(
    cluster: Cluster, directory: Path, *, approver: bool = True, kubeconfig: Path | None = None
) -> Iterator[Process]:
    """Install its definitions and run its controllers until the end of the block.

    Without its own `approver` somebody else has to approve what is to be signed. `kubeconfig` is
    an administrator's unless another is named.
    """
    found = CONTROLLER.find(Progress())
    cluster.kubectl.apply_crds(found.crds)
    cluster.api.ensure("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    arguments = ["--kubeconfig", str(kubeconfig or cluster.kubeconfig)]
    if not approver:
        arguments.append("--approver=false")
    with running(CONTROLLER, directory, *arguments) as process:
        yield process


@contextmanager
def running_webhook(cluster: Cluster, directory: Path) -> Iterator[None]:
    """Have requests say who made them, and approvals judged by the rights of who approves."""
    kubeconfig = ("--kubeconfig", str(cluster.kubeconfig))
    with ExitStack() as stack:
        port = stack.enter_context(KeptPorts()).port()
        serving = ("--port", str(port), "--secret", _SECRET)
        processes = [
            stack.enter_context(running(program, directory, *kubeconfig, *arguments))
            for program, arguments in ((WEBHOOK, serving), (CAINJECTOR, ()))
        ]
        annotation = {"cert-manager.io/inject-ca-from-secret": f"{NAMESPACE}/{_SECRET}"}
        metadata = {"name": "cert-manager-webhook", "annotations": annotation}
        hooks = _hooks(port)
        for kind, hook in hooks.items():
            body = {"metadata": metadata, "webhooks": [hook]}
            cluster.api.create(f"{_HOOKS}/{kind}webhookconfigurations", body)

        def injected() -> bool:
            for process in processes:
                process.require_alive()
            return all(map(partial(_has_authority, cluster.api), hooks))

        wait_until(injected, seconds=READY_SECONDS, what="authority of cert-manager's webhooks")
        yield


def _has_authority(api: KubeApi, kind: str) -> bool:
    path = f"{_HOOKS}/{kind}webhookconfigurations/cert-manager-webhook"
    (configured,) = api.get(path)["webhooks"]
    return bool(configured["clientConfig"].get("caBundle"))


def _hooks(port: int) -> dict[str, Object]:
    """Return what cert-manager's chart has them called for, by kind of configuration."""
    common = {
        "name": "webhook.cert-manager.io",
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Fail",
        "sideEffects": "None",
    }
    rule = {"apiGroups": ["cert-manager.io"], "apiVersions": ["v1"]}
    made = {**rule, "operations": ["CREATE"], "resources": ["certificaterequests"]}
    any_ = {**rule, "operations": ["CREATE", "UPDATE"], "resources": ["*/*"]}
    url = f"https://localhost:{port}"
    return {
        "mutating": {**common, "clientConfig": {"url": f"{url}/mutate"}, "rules": [made]},
        "validating": {**common, "clientConfig": {"url": f"{url}/validate"}, "rules": [any_]},
    }


def issued(api: KubeApi, path: str, unlike: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Wait for a Secret that has a certificate, and another one than before; return its data."""
    old = (unlike or {}).get(CERT)

    def content() -> dict[str, bytes]:
        data = (api.find(path) or {}).get("data") or {}
        return {key: base64.b64decode(value) for key, value in data.items()}

    def there() -> bool:
        return CERT in content() and content()[CERT] != old

    wait_until(there, seconds=READY_SECONDS, what=f"Secret {path}")
    return content()


@contextmanager
def running(program: GoProgram, directory: Path, *arguments: str) -> Iterator[Process]:
    """Run a program until the end of the block, at which it must still be alive."""
    argv = [str(program.find(Progress()).program), *arguments]
    process = Launcher(logs=directory, leashed=True).start(program.name, argv)
    try:
        yield process
        process.require_alive()
    finally:
        process.kill()
