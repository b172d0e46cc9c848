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
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kmm_common.tls import TlsFiles
from kmm_sandbox.kubeapi import KubeApi, Object
from kmm_sandbox.pod import DaemonPod
from kmm_sandbox.processes import wait_until
from support.certvolume import CA, CERT, KEY, CertificateVolume

ISSUED_SECONDS = 60.0
_PREFIX = "csi.cert-manager.io"
_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def manifest_attributes() -> Mapping[str, str]:
    """Return what the daemon's manifest asks the driver for."""
    (volume,) = (one["csi"] for one in DaemonPod.read().spec["volumes"] if "csi" in one)
    assert volume["driver"] == _PREFIX
    found: Mapping[str, str] = volume["volumeAttributes"]
    return found


class DeniedError(Exception):
    """A request was denied; says by whom and why."""


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
        """Have a certificate issued and show it: at the Pod's start, and at every renewal.

        Raises DeniedError, which leaves what is shown as it was.
        """
        key = self._key()
        status = self._issued(self._ask(key))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        certificate, ca = (base64.b64decode(status[name]) for name in ("certificate", "ca"))
        CertificateVolume(self.directory).replace({CERT: certificate, KEY: private, CA: ca})

    def ask(self) -> str:
        """Make a request, and do not wait; return its path."""
        return self._ask(self._key())

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

    def _key(self) -> _Key:
        if self.attribute("key-algorithm") == "RSA":
            return rsa.generate_private_key(65537, int(self.attribute("key-size")))
        curves = {"256": ec.SECP256R1(), "384": ec.SECP384R1()}
        assert self.attribute("key-algorithm") == "ECDSA"
        return ec.generate_private_key(curves[self.attribute("key-size")])

    def _request(self, key: _Key) -> Object:
        names: list[x509.GeneralName] = [
            *map(x509.UniformResourceIdentifier, self._list("uri-sans")),
            *map(x509.DNSName, self._list("dns-names")),
        ]
        builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
        # Critical, as there is no subject.
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
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
                "isCA": self.attribute("is-ca", "false") == "true",
                "issuerRef": {
                    "name": self.attribute("issuer-name"),
                    "kind": self.attribute("issuer-kind", "Issuer"),
                    "group": "cert-manager.io",
                },
            },
        }

    def _list(self, name: str) -> list[str]:
        return [one for one in self.attribute(name).split(",") if one]

    def _ask(self, key: _Key) -> str:
        namespace, request = self.pod["metadata"]["namespace"], self._request(key)
        path = f"/apis/cert-manager.io/v1/namespaces/{namespace}/certificaterequests"
        self.api.create(path, request)
        name = request["metadata"]["name"]
        self.requests.append(name)
        return f"{path}/{name}"

    def _issued(self, path: str) -> Object:
        def status() -> Object:
            found: Object = self.api.get(path).get("status") or {}
            return found

        def decided() -> bool:
            return bool(status().get("certificate")) or _denial(status()) is not None

        wait_until(decided, seconds=ISSUED_SECONDS, what=f"certificate of {path}")
        if (denial := _denial(status())) is not None:
            raise DeniedError(f"{denial['reason']}: {denial['message']}")
        return status()


def _denial(status: Object) -> Object | None:
    conditions: list[Object] = status.get("conditions", [])
    denied = (one for one in conditions if one["type"] == "Denied" and one["status"] == "True")
    return next(denied, None)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
