"""Certificates of the sandbox: the cluster's, and a development CA for the link to the daemons."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kmm_common.clock import Clock, SystemClock

TRUST_DOMAIN = "kmm.sigs.x-k8s.io"
LIFETIME = timedelta(days=30)
BACKDATED = timedelta(minutes=5)
"""Clocks of two machines may differ by this much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def cert_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return _key_pem(self.key)

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write `<name>.crt` and `<name>.key` (mode 0600); return their paths."""
        cert, key = directory / f"{name}.crt", directory / f"{name}.key"
        directory.mkdir(parents=True, exist_ok=True)
        cert.write_bytes(self.cert_pem)
        write_secret(key, self.key_pem)
        return cert, key


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whom a certificate names and what it may be used for."""

    common_name: str
    organizations: Sequence[str] = ()
    hosts: Sequence[str] = ()
    """DNS names and IP addresses."""
    uris: Sequence[str] = ()
    server: bool = False
    client: bool = False


class Authority:
    """A certificate authority that lives as long as the sandbox."""

    def __init__(self, common_name: str, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = _lifetime(self._clock, subject=name, issuer=name, key=key)
        builder = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        builder = builder.add_extension(_usage(ca=True), critical=True)
        certificate = builder.sign(key, hashes.SHA256())
        self.credential = Credential(certificate=certificate, key=key)

    def issue(self, identity: Identity) -> Credential:
        """Return a new key with a certificate for it, P-256 and SHA-256."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self.credential.certificate
        builder = _lifetime(self._clock, subject=_subject(identity), issuer=issuer.subject, key=key)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        builder = builder.add_extension(_usage(ca=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(_purposes(identity)), critical=False)
        signer = self.credential.key.public_key()
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False
        )
        names = _alternative_names(identity)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.credential.key, hashes.SHA256())
        return Credential(certificate=certificate, key=key)


def daemon_uri(*, namespace: str, service_account: str, pod: str, uid: str) -> str:
    """Return the URI that names a daemon's pod in its certificate."""
    return f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{service_account}/pod/{pod}/{uid}"


def service_account_key(directory: Path) -> tuple[Path, Path]:
    """Write the key pair that signs ServiceAccount tokens; return private and public path."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = directory / "sa.key", directory / "sa.pub"
    write_secret(private, _key_pem(key))
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads, from its first byte on."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _lifetime(
    clock: Clock, *, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = clock.now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _subject(identity: Identity) -> x509.Name:
    organizations = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in identity.organizations
    ]
    return x509.Name(
        [*organizations, x509.NameAttribute(NameOID.COMMON_NAME, identity.common_name)]
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _purposes(identity: Identity) -> list[x509.ObjectIdentifier]:
    server = [ExtendedKeyUsageOID.SERVER_AUTH] if identity.server else []
    client = [ExtendedKeyUsageOID.CLIENT_AUTH] if identity.client else []
    return server + client


def _alternative_names(identity: Identity) -> list[x509.GeneralName]:
    uris = [x509.UniformResourceIdentifier(uri) for uri in identity.uris]
    return [*(_host(host) for host in identity.hosts), *uris]


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
