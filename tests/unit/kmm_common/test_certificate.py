"""When a certificate is valid, held against what the cryptography package reads."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from kmm_common.certificate import expiry, valid
from kmm_common.tls import TlsFilesError

KEY = ec.generate_private_key(ec.SECP256R1())
FIRST, LAST = datetime(1950, 1, 1), datetime(9999, 12, 31)  # noqa: DTZ001


def certificate(ends: datetime, *, serial: int = 1, issuer: str = "kmm") -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), serial, FIRST, ends)
    return builder.sign(KEY, hashes.SHA256())


@settings(deadline=None)
@given(
    st.datetimes(FIRST + timedelta(days=1), LAST).map(lambda moment: moment.replace(microsecond=0)),
    st.integers(1, 2**159 - 1),
    st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=16),
)
def test_validity_is_what_cryptography_reads(ends: datetime, serial: int, issuer: str) -> None:
    written = certificate(ends, serial=serial, issuer=issuer)
    span = (written.not_valid_before_utc, written.not_valid_after_utc)
    assert valid(written.public_bytes(Encoding.DER)) == span


@given(st.binary(max_size=300))
def test_bytes_that_are_no_certificate_are_refused(der: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        valid(der)


def test_first_certificate_of_a_chain_counts(tmp_path: Path) -> None:
    leaf, authority = (
        datetime(2027, 1, 1, tzinfo=UTC),
        datetime(2036, 1, 1, tzinfo=UTC),
    )
    chain = tmp_path / "tls.crt"
    pem = [certificate(one).public_bytes(Encoding.PEM) for one in (leaf, authority)]
    chain.write_bytes(b"# a remark\n" + b"".join(pem))
    assert expiry(chain) == leaf


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "it has no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "tls.crt: "),
    ],
)
def test_file_without_a_certificate_is_named(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "tls.crt"
    path.write_text(content)
    with pytest.raises(TlsFilesError, match=f"{why}.*; put a certificate in PEM there"):
        expiry(path)
