"""Our own certificate authority, for clusters without cert-manager: when another takes its place.

Three steps, each long enough for all to have seen the one before: the next authority is made and
trusted, then it signs, then the one before it is trusted no more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kmm_common.errors import TerminalError
from kmm_cp.serving.issue import BACKDATED, Signer, new_signer

LIFE = timedelta(days=365)
NEXT_AFTER = LIFE * 2 / 3
"""Of the current one's life; the rest is for a control plane that was switched off."""
SEEN_AFTER = timedelta(days=1)
"""By then every daemon trusts a new authority: the kubelet brings it within minutes."""

_NAMES = ("current", "next", "previous")
_REMEDY = "remove all of the Secret's data to have another authority made"


class AuthorityError(TerminalError):
    """The stored authority cannot be used; names the key of the Secret."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}; {_REMEDY}", reason="InvalidAuthority")


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorities:
    """All that are trusted; the current one signs."""

    current: Signer = field(repr=False)
    next: Signer | None = field(default=None, repr=False)
    previous: x509.Certificate | None = None

    @property
    def bundle(self) -> bytes:
        """PEM of all certificates, as everybody who trusts us has it."""
        coming = [self.next.certificate] if self.next else []
        gone = [self.previous] if self.previous else []
        return b"".join(_pem(one) for one in (self.current.certificate, *coming, *gone))


def turned(held: Authorities | None, *, now: datetime, leaf: timedelta) -> Authorities:
    """Return the authorities as they should be now; the same object where nothing is due.

    `leaf` is how long the certificates are valid that they sign.
    """
    if held is None or now >= held.current.certificate.not_valid_after_utc:
        return Authorities(current=new_signer(now, LIFE))
    if held.next is not None:
        if _age(held.next, now) < SEEN_AFTER:
            return held
        return Authorities(current=held.next, previous=held.current.certificate)
    if held.previous is not None and _age(held.current, now) >= 2 * SEEN_AFTER + leaf:
        return replace(held, previous=None)
    if _age(held.current, now) >= NEXT_AFTER:
        return replace(held, next=new_signer(now, LIFE))
    return held


def stored(held: Authorities) -> dict[str, bytes]:
    """Return a Secret's data; the key of an authority that signs no more is not in it."""
    signers = {"current": held.current, "next": held.next}
    data: dict[str, bytes] = {}
    for name, signer in signers.items():
        if signer is not None:
            data |= {f"{name}.crt": _pem(signer.certificate), f"{name}.key": _key_pem(signer.key)}
    if held.previous is not None:
        data["previous.crt"] = _pem(held.previous)
    return data


def restored(data: Mapping[str, bytes]) -> Authorities | None:
    """Return what a Secret's data holds; None if it is empty. Raises AuthorityError."""
    if not any(f"{name}.{kind}" in data for name in _NAMES for kind in ("crt", "key")):
        return None
    return Authorities(
        current=_signer(data, "current"),
        next=_signer(data, "next") if "next.crt" in data else None,
        previous=_certificate(data, "previous.crt") if "previous.crt" in data else None,
    )


def _signer(data: Mapping[str, bytes], name: str) -> Signer:
    certificate, where = _certificate(data, f"{name}.crt"), f"{name}.key"
    try:
        key = serialization.load_pem_private_key(data.get(where, b""), password=None)
    except (ValueError, TypeError) as error:
        # The library's words may quote the key.
        raise AuthorityError(where, "is no private key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AuthorityError(where, "is no key of an elliptic curve")
    if key.public_key() != certificate.public_key():
        raise AuthorityError(where, f"is not the key of {name}.crt")
    return Signer(certificate=certificate, key=key)


def _certificate(data: Mapping[str, bytes], where: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(data.get(where, b""))
    except (ValueError, x509.InvalidVersion) as error:
        raise AuthorityError(where, "is no certificate in PEM") from error


def _age(signer: Signer, now: datetime) -> timedelta:
    return now - signer.certificate.not_valid_before_utc - BACKDATED


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
