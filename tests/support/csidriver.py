"""What cert-manager's CSI driver does for a Pod's volume, as it was seen to do it.

Its own module is served by no proxy, and the kubelet that would call it is not here. The requests
that it makes, and the files that it leaves, are these; the API server, the controllers that approve
and sign, and the garbage collector are real.
"""

import base64
import hashlib
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kmm_common.tls import TlsFiles
from kmm_sandbox.kubeapi import KubeApi, Object
from kmm_sandbox.processes import wait_until
from support.certvolume import CA, CERT, KEY, CertificateVolume

ISSUED_SECONDS = 60.0
_PREFIX = "csi.cert-manager.io"


@dataclass(slots=True, kw_only=True)
class CsiVolume:
    """The volume of one Pod; its files are where a container sees them."""

    api: KubeApi
    pod: Object
    attributes: Mapping[str, str]
    """volumeAttributes of the Pod's csi volume."""
    directory: Path
    requests: list[str] = field(default_factory=list)
    """Names of the CertificateRequests that were made for it."""

    @property
    def files(self) -> TlsFiles:
        return CertificateVolume(self.directory).files

    def publish(self) -> None:
        """Have a certificate issued and show it: at the Pod's start, and at every renewal."""
        key = ec.generate_private_key(ec.SECP256R1())
        status = self._issued(self._request(key))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        certificate, ca = (base64.b64decode(status[name]) for name in ("certificate", "ca"))
        CertificateVolume(self.directory).replace({CERT: certificate, KEY: private, CA: ca})

    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.files.cert.read_bytes())

    def attribute(self, name: str, default: str = "") -> str:
        """Return an attribute, with the Pod's own words in it."""
        metadata = self.pod["metadata"]
        known = {
            "POD_NAME": metadata["name"],
            "POD_NAMESPACE": metadata["namespace"],
            "POD_UID": metadata["uid"],
            "SERVICE_ACCOUNT_NAME": self.pod["spec"]["serviceAccountName"],
        }
        text = self.attributes.get(f"{_PREFIX}/{name}", default)
        return string.Template(text).substitute(known)

    def _request(self, key: ec.EllipticCurvePrivateKey) -> Object:
        assert self.attribute("key-algorithm") == "ECDSA"
        assert self.attribute("key-size") == "256"
        uris = [x509.UniformResourceIdentifier(uri) for uri in self._list("uri-sans")]
        builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
        # Critical, as there is no subject.
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=True)
        csr = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
        metadata = self.pod["metadata"]
        owner = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        hashed = {
            f"{_PREFIX}/node-id-hash": _hash(self.pod["spec"]["nodeName"]),
            f"{_PREFIX}/volume-id-hash": _hash(str(self.directory)),
        }
        return {
            "apiVersion": "cert-manager.io/v1",
            "kind": "CertificateRequest",
            "metadata": {"name": str(uuid4()), "labels": hashed, "ownerReferences": [owner]},
            "spec": {
                "request": base64.b64encode(csr).decode(),
                "duration": self.attribute("duration", "2160h"),
                "usages": self._list("key-usages"),
                "isCA": False,
                "issuerRef": {
                    "name": self.attribute("issuer-name"),
                    "kind": self.attribute("issuer-kind", "Issuer"),
                    "group": "cert-manager.io",
                },
            },
        }

    def _list(self, name: str) -> list[str]:
        return [one for one in self.attribute(name).split(",") if one]

    def _issued(self, request: Object) -> Object:
        namespace = self.pod["metadata"]["namespace"]
        path = f"/apis/cert-manager.io/v1/namespaces/{namespace}/certificaterequests"
        self.api.create(path, request)
        name = request["metadata"]["name"]
        self.requests.append(name)

        def status() -> Object:
            found: Object = self.api.get(f"{path}/{name}").get("status") or {}
            return found

        wait_until(
            lambda: bool(status().get("certificate")),
            seconds=ISSUED_SECONDS,
            what=f"certificate of {name}",
        )
        return status()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
