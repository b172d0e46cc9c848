"""What the certificates of our own authority are good for, and what not."""

import asyncio
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kmm_common.clock import SystemClock
from kmm_common.tls import (
    PeerIdentityError,
    ServerTls,
    TlsFiles,
    client_context,
    pod_identity,
    pod_uri,
)
from kmm_cp.serving.issue import (
    Signer,
    daemon_certificate,
    new_signer,
    scraper_certificate,
    server_certificate,
)
from support.certificates import pod_of
from support.certvolume import CERT, KEY, CertificateVolume

LIFE = timedelta(hours=1)
POD = pod_of("a")
DAEMON, CONTROL_PLANE, SCRAPER = "kmm-daemon.ns.svc", "kmm-cp.ns.svc", "kmm-scraper.ns.svc"
NOW = SystemClock().now()


@pytest.fixture(scope="module")
def signer() -> Signer:
    return new_signer(NOW, LIFE * 2)


def written(directory: Path, signer: Signer, cert: bytes, key: bytes) -> TlsFiles:
    trusted = signer.certificate.public_bytes(Encoding.PEM)
    volume = CertificateVolume(directory)
    volume.replace({CERT: cert, KEY: key, "ca.crt": trusted})
    return volume.files


@pytest.fixture
def daemon(signer: Signer, tmp_path: Path) -> TlsFiles:
    key = ec.generate_private_key(ec.SECP256R1())
    uri = pod_uri(POD, "kmm.test")
    cert = daemon_certificate(signer, key.public_key(), uri, host=DAEMON, now=NOW, life=LIFE)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return written(tmp_path / "daemon", signer, cert, pem)


@pytest.fixture
def scraper(signer: Signer, tmp_path: Path) -> TlsFiles:
    made = scraper_certificate(signer, SCRAPER, now=NOW, life=LIFE)
    return written(tmp_path / "scraper", signer, *made)


@pytest.fixture
def control_plane(signer: Signer, tmp_path: Path) -> TlsFiles:
    made = server_certificate(signer, [CONTROL_PLANE], now=NOW, life=LIFE)
    return written(tmp_path / "control-plane", signer, *made)


async def shaken(server: TlsFiles, client: TlsFiles, name: str) -> object:
    """Shake hands with a server of that name; return the client's certificate as it has it."""
    seen: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def welcome(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(writer.get_extra_info("peercert"))
        writer.close()

    tls = ServerTls(server)
    listener = await asyncio.start_server(welcome, "127.0.0.1", 0, ssl=tls.context)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context(client), server_hostname=name
        )
        try:
            return await seen
        finally:
            writer.close()


async def test_daemon_serves_under_the_daemons_name_and_scraper_is_known_by_its_own(
    daemon: TlsFiles, scraper: TlsFiles
) -> None:
    certificate = await shaken(daemon, scraper, DAEMON)
    assert isinstance(certificate, dict)
    assert certificate["subjectAltName"] == (("DNS", SCRAPER),)
    with pytest.raises(PeerIdentityError, match="0 URIs"):
        pod_identity(certificate, "kmm.test")


async def test_daemon_cannot_pose_as_the_control_plane(daemon: TlsFiles) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="ostname mismatch"):
        await shaken(daemon, daemon, CONTROL_PLANE)


async def test_daemon_is_the_pod_of_its_uri_for_the_control_plane(
    control_plane: TlsFiles, daemon: TlsFiles
) -> None:
    certificate = await shaken(control_plane, daemon, CONTROL_PLANE)
    assert isinstance(certificate, dict)
    assert pod_identity(certificate, "kmm.test") == POD


async def test_scraper_cannot_serve(scraper: TlsFiles, daemon: TlsFiles) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        await shaken(scraper, daemon, SCRAPER)
