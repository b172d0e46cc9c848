"""Certificates for tests of the link: an authority, a server and daemons."""

from pathlib import Path

from kmm_common.clock import Clock
from kmm_common.tls import PodIdentity, TlsFiles, pod_uri
from kmm_sandbox.pki import TRUST_DOMAIN, Authority, Identity

NAMESPACE = "kmm-operator-system"
SERVICE_ACCOUNT = "kmm-daemon"


def pod_of(node: str) -> PodIdentity:
    """Return the identity of the daemon's pod on a node."""
    return PodIdentity(
        namespace=NAMESPACE,
        service_account=SERVICE_ACCOUNT,
        name=f"kmm-daemon-{node}",
        uid=f"uid-of-{node}",
    )


class Certificates:
    """Writes certificates of one authority below a directory."""

    def __init__(self, directory: Path, *, clock: Clock | None = None) -> None:
        """`clock` is the authority's."""
        self._directory = directory
        self.authority = Authority("test", clock=clock)
        self._count = 0

    def server(self) -> TlsFiles:
        """Issue a certificate for localhost, for serving only."""
        return self.issue(Identity(common_name="server", hosts=["localhost"], server=True))

    def daemon(self, node: str) -> TlsFiles:
        """Issue a certificate for the daemon's pod on a node."""
        return self.uris(pod_uri(pod_of(node), TRUST_DOMAIN))

    def uris(self, *uris: str) -> TlsFiles:
        """Issue a client certificate with these URIs."""
        return self.issue(Identity(common_name="daemon", uris=uris, client=True))

    def issue(self, identity: Identity) -> TlsFiles:
        """Issue a certificate; each has files of its own."""
        self._count += 1
        place = self._directory / str(self._count)
        cert, key = self.authority.issue(identity).write(place, "tls")
        ca = place / "ca.crt"
        ca.write_bytes(self.authority.credential.cert_pem)
        return TlsFiles(cert=cert, key=key, ca=ca)
