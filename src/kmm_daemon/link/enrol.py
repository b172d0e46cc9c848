"""A program of its own that gets the daemon a certificate for the token of its Pod, and ends.

What makes keys and requests costs a process 8 MiB, which a daemon does not keep for what it does
twice a day. The key does not leave the directory that it is written to.
"""

import argparse
import contextlib
import http.client
import json
import socket
import ssl
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kmm_common import volume
from kmm_common.errors import KmmError
from kmm_common.listening import host_and_port
from kmm_common.tls import CERTIFICATE_EXPIRED, CERTIFICATE_NOT_YET_VALID
from kmm_daemon.link.renewal import TRUSTED

SECONDS = 30.0
"""For each step on the way to the answer."""
_ANSWER_BYTES = 64 * 2**10
_OTHER_NAMES = (62, 64)
"""verify_code of an SSLCertVerificationError: X509_V_ERR_HOSTNAME_MISMATCH, and of an address."""


class NotEnrolledError(KmmError):
    """There is no certificate; the message names the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to enrol, and with which files."""

    server: str
    """host:port."""
    server_name: str
    token: Path
    ca: Path
    cert: Path
    key: Path


def enrol(place: Place) -> None:
    """Write a new key and its certificate. Raises NotEnrolledError."""
    trusted, token = _read(place.ca, "tls.ca"), _read(place.token, "enrol.token")
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256())
    body = {
        "token": token.decode(errors="replace").strip(),
        "csr": request.public_bytes(Encoding.PEM).decode(),
    }
    certificate = _certificate(_asked(place, json.dumps(body).encode()), key)
    new = {
        place.cert.name: certificate,
        place.key.name: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        TRUSTED: trusted,
    }
    try:
        volume.publish(place.cert.parent, new)
    except OSError as error:
        where = place.cert.parent
        raise NotEnrolledError(f"tls.cert: {where}: {error.strerror}: make it writable") from error


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotEnrolledError(
            f"{setting}: {path}: {error.strerror}: mount it there, as the DaemonSet of KMM does"
        ) from error


def _asked(place: Place, body: bytes) -> bytes:
    """Return the answer to a request. Raises NotEnrolledError."""
    headers = {"Content-Type": "application/json", "Connection": "close"}
    with _connection(place) as connection:
        connection.request("POST", "/enrol", body, headers)
        with connection.getresponse() as response:
            answer = response.read(_ANSWER_BYTES)
    if response.status != HTTPStatus.OK:
        raise NotEnrolledError(f"the control plane at {place.server}: {_refusal(answer)}")
    return answer


@contextlib.contextmanager
def _connection(place: Place) -> Iterator[http.client.HTTPConnection]:
    context = _context(place.ca)
    host, port = host_and_port(place.server)
    address = (host or "localhost", port)
    try:
        with (
            socket.create_connection(address, timeout=SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=place.server_name) as secure,
        ):
            connection = http.client.HTTPConnection(*address)
            connection.sock = secure
            yield connection
    except ssl.SSLCertVerificationError as error:
        message = f"the control plane's certificate {_distrust(error, place)}"
        raise NotEnrolledError(message) from error
    except (OSError, http.client.HTTPException) as error:
        message = f"no answer from {place.server}: {error}: set enrol.server to the host and port"
        raise NotEnrolledError(f"{message} of the control plane's enrolment.listen") from error


def _context(ca: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        message = f"tls.ca: {ca}: has no certificate: wait for the control plane to write it"
        raise NotEnrolledError(message) from error
    return context


def _distrust(error: ssl.SSLCertVerificationError, place: Place) -> str:
    if error.verify_code in _OTHER_NAMES:
        return (
            f"does not name {place.server_name}: set server_name to one of the control plane's"
            " enrolment.server_names"
        )
    if error.verify_code == CERTIFICATE_EXPIRED:
        return "has expired by this node's clock: set the clock, or look at the control plane"
    if error.verify_code == CERTIFICATE_NOT_YET_VALID:
        return "is not valid yet by this node's clock: set the clock"
    return (
        f"is not of an authority in {place.ca} ({error.verify_message}): mount the ConfigMap that"
        " the control plane's enrolment.config_map names there"
    )


def _refusal(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["error"])[:1000]
    except (ValueError, KeyError, TypeError):
        return "what it says is no answer: set enrol.server to its enrolment.listen"


def _certificate(answer: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    try:
        pem = str(json.loads(answer)["certificate"]).encode()
        certified = x509.load_pem_x509_certificate(pem).public_key()
    except (ValueError, KeyError, TypeError) as error:
        raise NotEnrolledError("the control plane's answer has no certificate") from error
    if certified != key.public_key():
        raise NotEnrolledError("the control plane's certificate is for another key")
    return pem


def main(arguments: Sequence[str] | None = None) -> int:
    """Enrol; exit code 1 with one line on standard error if that fails."""
    parser = argparse.ArgumentParser(prog="kmm_daemon.link.enrol", description=__doc__)
    for name in ("server", "server-name"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("token", "ca", "cert", "key"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    try:
        enrol(Place(**vars(parser.parse_args(arguments))))
    except NotEnrolledError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
