"""Certificates that our own authority signs. Of a request for one, only its key is taken."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kmm_common.errors import TerminalError

BACKDATED = timedelta(minutes=5)
"""Clocks of two machines may differ by this much."""

_CSR = re.compile(
    rb"\s*-----BEGIN CERTIFICATE REQUEST-----[A-Za-z0-9+/=\s]+"
    rb"-----END CERTIFICATE REQUEST-----\s*"
)
_REMEDY = "send one PKCS#10 request in PEM for a key of the curve P-256"


class RequestError(TerminalError):
    """What a peer sends is no request for a certificate; names what is wrong with it."""

    def __init__(self, why: str) -> None:
        super().__init__(why, reason="BadRequest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A certificate of an authority, with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


def new_signer(now: datetime, life: timedelta) -> Signer:
    """Return a new authority, whose certificates sign no further authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    named = [x509.NameAttribute(NameOID.COMMON_NAME, f"kmm {now:%Y-%m-%d}")]
    name = x509.Name([*named, x509.NameAttribute(NameOID.SERIAL_NUMBER, _random_text())])
    builder = _builder(key.public_key(), name, name, (now - BACKDATED, now + life))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(authority=True), critical=True)
    return Signer(certificate=builder.sign(key, hashes.SHA256()), key=key)


def requested_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key of a request that its sender has proved to hold. Raises RequestError."""
    if not _CSR.fullmatch(pem):
        raise RequestError(f"csr: is not one request in PEM; {_REMEDY}")
    try:
        request = x509.load_pem_x509_csr(pem)
        key, proved = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise RequestError(f"csr: cannot be read; {_REMEDY}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RequestError(f"csr: is for another kind of key; {_REMEDY}")
    if not proved:
        raise RequestError(f"csr: is not signed by its key; {_REMEDY}")
    return key


def daemon_certificate(
    signer: Signer,
    key: ec.EllipticCurvePublicKey,
    uri: str,
    *,
    host: str,
    now: datetime,
    life: timedelta,
) -> bytes:
    """Return PEM of a certificate for a pod: a client that the URI names, a server of a host."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri), x509.DNSName(host)]
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    return _leaf(signer, key, names, purposes, now=now, life=life)


def server_certificate(
    signer: Signer, hosts: Sequence[str], *, now: datetime, life: timedelta
) -> tuple[bytes, bytes]:
    """Return PEM of a certificate for servers of these names, and of its new key."""
    return _with_key(signer, hosts, ExtendedKeyUsageOID.SERVER_AUTH, now=now, life=life)


def scraper_certificate(
    signer: Signer, name: str, *, now: datetime, life: timedelta
) -> tuple[bytes, bytes]:
    """Return PEM of a certificate for a client that is no pod of ours, and of its new key."""
    return _with_key(signer, [name], ExtendedKeyUsageOID.CLIENT_AUTH, now=now, life=life)


def _with_key(
    signer: Signer,
    hosts: Sequence[str],
    purpose: x509.ObjectIdentifier,
    *,
    now: datetime,
    life: timedelta,
) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
    pem = _leaf(signer, key.public_key(), names, [purpose], now=now, life=life)
    return pem, key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _leaf(
    signer: Signer,
    key: ec.EllipticCurvePublicKey,
    names: Sequence[x509.GeneralName],
    purposes: Sequence[x509.ObjectIdentifier],
    *,
    now: datetime,
    life: timedelta,
) -> bytes:
    issuer = signer.certificate
    ends = min(now + life, issuer.not_valid_after_utc)
    builder = _builder(key, x509.Name([]), issuer.subject, (now - BACKDATED, ends))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_usage(authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    # Critical, since there is no subject (RFC 5280, 4.2.1.6).
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
    builder = builder.add_extension(issued_by, critical=False)
    certificate = builder.sign(signer.key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)


def _builder(
    key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    valid: tuple[datetime, datetime],
) -> x509.CertificateBuilder:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key)
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=valid[0],
        not_valid_after=valid[1],
    )
    return builder.add_extension(identifier, critical=False)


def _random_text() -> str:
    """Return what tells two authorities of one day apart: TLS finds issuers by their names."""
    return f"{x509.random_serial_number():x}"[:16]


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
