"""When a certificate is valid, read from its file.

The `cryptography` package says it, too, and costs a process 8 MiB: too much for two dates on every
node. The `ssl` module reads dates of other sides' certificates only.
"""

import re
import ssl
from datetime import datetime
from pathlib import Path

from kmm_common.tls import TlsFilesError

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17
"""DER tags of TBSCertificate.version and of a time whose year has two digits."""
_CENTURY_TURN = "50"
"""RFC 5280, 4.1.2.5.1: two digits from here on are of the 20th century."""


def expiry(path: Path) -> datetime:
    """Return notAfter of the first certificate in a PEM file. Raises TlsFilesError."""
    return validity(path)[1]


def validity(path: Path) -> tuple[datetime, datetime]:
    """Return notBefore and notAfter of the first one in a PEM file. Raises TlsFilesError."""
    try:
        found = _PEM.search(path.read_text(encoding="ascii", errors="replace"))
        if found is None:
            raise ValueError("it has no certificate")
        return valid(ssl.PEM_cert_to_DER_cert(found[0]))
    except OSError as error:
        raise TlsFilesError(f"{path}: {error.strerror}; put a PEM file there") from error
    except (ValueError, IndexError) as error:
        raise TlsFilesError(f"{path}: {error}; put a certificate in PEM there") from error


def valid(der: bytes) -> tuple[datetime, datetime]:
    """Return notBefore and notAfter of a certificate (RFC 5280, 4.1). ValueError, IndexError."""
    _, certificate, _ = _element(der, 0)
    _, at, _ = _element(der, certificate)
    tag, _, end = _element(der, at)
    if tag == _VERSION:
        at = end
    for _ in ("serialNumber", "signature", "issuer"):
        _, _, at = _element(der, at)
    _, not_before, _ = _element(der, at)
    _, _, not_after = _element(der, not_before)
    return _time(der, not_before), _time(der, not_after)


def _time(der: bytes, at: int) -> datetime:
    tag, start, end = _element(der, at)
    text = der[start:end].decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text >= _CENTURY_TURN else "20") + text
    return datetime.fromisoformat(f"{text[:8]}T{text[8:]}")


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Return the tag of the DER element at an offset, and where its content begins and ends."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[start : start + size])
        start += size
    return tag, start, start + length
