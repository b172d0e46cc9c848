"""Metrics over TLS: who reads them, who may probe only, and what renewed files change."""

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kmm_common import monitoring
from kmm_common.logs import fields_of
from kmm_common.monitoring import MOST_CONNECTIONS, MonitoringServer
from kmm_common.settings import MetricsTlsSettings
from kmm_common.tls import TlsFiles, TlsFilesError
from kmm_sandbox.pki import Identity
from kmm_sandbox.ports import KeptPorts
from support.certificates import Certificates
from support.fleet import eventually

NAMES = ("prometheus.test", "spiffe://kmm.test/ns/monitoring/sa/prometheus")
SERVED = b"kmm_module_num 1.0\n"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "pki")


def scraper(certificates: Certificates, *, host: str = "", uri: str = "") -> TlsFiles:
    """Issue a certificate for a client."""
    hosts, uris = [host] if host else [], [uri] if uri else []
    return certificates.issue(Identity(common_name="x", hosts=hosts, uris=uris, client=True))


@asynccontextmanager
async def serving(files: TlsFiles, *, awaits_files: bool = False) -> AsyncIterator[int]:
    """Serve metrics over TLS; yield the port."""
    tls = MetricsTlsSettings(cert=files.cert, key=files.key, ca=files.ca, names=NAMES)
    with KeptPorts() as ports:
        port = ports.port()
        server = MonitoringServer(
            f"127.0.0.1:{port}", exposition=lambda: SERVED, tls=tls, awaits_files=awaits_files
        )
        await server.start()
        try:
            yield port
        finally:
            await server.stop()


def client(certificates: Certificates, files: TlsFiles | None) -> ssl.SSLContext:
    authority = certificates.authority.credential.cert_pem.decode()
    context = ssl.create_default_context(cadata=authority)
    if files:
        context.load_cert_chain(files.cert, files.key)
    return context


async def ask(port: int, context: ssl.SSLContext, path: str = "/metrics") -> bytes:
    """Return the whole answer. OSError."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    try:
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("name", [{"host": NAMES[0]}, {"uri": NAMES[1]}], ids=["dns", "uri"])
async def test_scraper_with_a_name_that_is_listed_reads_metrics(
    certificates: Certificates, name: dict[str, str]
) -> None:
    async with serving(certificates.server()) as port:
        answer = await ask(port, client(certificates, scraper(certificates, **name)))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(SERVED)


@pytest.mark.parametrize("host", ["", "other.test", "prometheus.test.evil"])
async def test_who_has_no_such_name_is_told_the_setting_and_may_probe(
    certificates: Certificates, host: str
) -> None:
    files = scraper(certificates, host=host) if host else None
    async with serving(certificates.server()) as port:
        answer = await ask(port, client(certificates, files))
        probe = await ask(port, client(certificates, files), "/healthz")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"metrics_tls.names" in answer
    assert SERVED not in answer
    assert probe.endswith(b"ok\n")


async def test_daemons_own_certificate_reads_no_metrics_of_others(
    certificates: Certificates,
) -> None:
    async with serving(certificates.server()) as port:
        answer = await ask(port, client(certificates, certificates.daemon("a")))
    assert answer.startswith(b"HTTP/1.1 403 ")


async def test_certificate_of_another_authority_ends_the_connection(
    certificates: Certificates, tmp_path: Path
) -> None:
    forged = scraper(Certificates(tmp_path / "other"), host=NAMES[0])
    async with serving(certificates.server()) as port:
        answer = b""
        with contextlib.suppress(OSError):
            answer = await ask(port, client(certificates, forged))
        assert answer == b""
        assert await ask(port, client(certificates, scraper(certificates, host=NAMES[0])))


async def test_renewed_files_hold_from_the_next_connection_on_and_wrong_ones_change_nothing(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = certificates.server()
    new = Certificates(tmp_path / "new")
    theirs, ours = scraper(new, host=NAMES[0]), scraper(certificates, host=NAMES[0])
    async with serving(served) as port:
        served.key.write_text("half a key")
        for _ in range(2):
            assert (await ask(port, client(certificates, ours))).endswith(SERVED)
        assert [each.getMessage() for each in caplog.records] == ["certificates not reloaded"]
        renewed = new.server()
        for old, fresh in ((served.cert, renewed.cert), (served.key, renewed.key)):
            shutil.copy(fresh, old)
        shutil.copy(renewed.ca, served.ca)
        assert (await ask(port, client(new, theirs))).endswith(SERVED)


async def test_files_that_are_awaited_are_served_from_the_moment_they_are_there(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = TlsFiles(cert=tmp_path / "a.crt", key=tmp_path / "a.key", ca=tmp_path / "ca.crt")
    context = client(certificates, scraper(certificates, host=NAMES[0]))
    async with serving(files, awaits_files=True) as port:
        for _ in range(2):
            with pytest.raises(OSError):
                await ask(port, context)
        (line,) = [each for each in caplog.records if each.msg == "metrics not served yet"]
        assert "a.crt" in str(fields_of(line)["error"])
        issued = certificates.server()
        for source, target in ((issued.cert, files.cert), (issued.key, files.key)):
            shutil.copy(source, target)
        shutil.copy(issued.ca, files.ca)
        assert (await ask(port, context)).endswith(SERVED)


async def test_peers_that_never_shake_hands_are_bounded(certificates: Certificates) -> None:
    context = client(certificates, scraper(certificates, host=NAMES[0]))
    async with serving(certificates.server()) as port:
        silent = [
            await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST_CONNECTIONS + 8)
        ]
        with pytest.raises(OSError):
            await ask(port, context)
        for _, writer in silent:
            writer.close()
        await eventually(lambda: _answered(port, context))


async def _answered(port: int, context: ssl.SSLContext) -> bool:
    with contextlib.suppress(OSError):
        return (await ask(port, context)).endswith(SERVED)
    return False


async def test_peer_that_never_shakes_hands_is_hung_up_on(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "CONNECTION_SECONDS", 0.05)
    async with serving(certificates.server()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    tls = MetricsTlsSettings(
        cert=tmp_path / "a.crt", key=tmp_path / "a.key", ca=tmp_path / "ca.crt", names=NAMES
    )
    with pytest.raises(TlsFilesError, match=r"a\.crt"):
        MonitoringServer("127.0.0.1:0", exposition=bytes, tls=tls)
