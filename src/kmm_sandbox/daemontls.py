"""The certificate of a daemon whose kubelet is played: it names the daemon's Pod."""

from pathlib import Path

from kmm_sandbox.kubelet import NAMESPACE, SERVICE_ACCOUNT, Kubelet
from kmm_sandbox.pki import Authority, Identity, daemon_uri


def daemon_identity(kubelet: Kubelet) -> Identity:
    """Return what the certificate of a node's daemon names: its Pod."""
    uri = daemon_uri(
        namespace=NAMESPACE,
        service_account=SERVICE_ACCOUNT,
        pod=kubelet.pod,
        uid=kubelet.pod_uid,
    )
    return Identity(common_name="kmm-daemon", uris=(uri,), client=True)


def write_daemon_tls(directory: Path, kubelet: Kubelet, authority: Authority) -> None:
    """Write daemon.crt, daemon.key and ca.crt for the Pod that a node's daemon has now."""
    authority.issue(daemon_identity(kubelet)).write(directory, "daemon")
    (directory / "ca.crt").write_bytes(authority.credential.cert_pem)
