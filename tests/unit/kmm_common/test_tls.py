import asyncio
import logging
import shutil
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common import tls
from kmm_common.tls import PeerIdentityError, PodIdentity, ServerTls, TlsFiles, TlsFilesError
from kmm_sandbox.pki import Identity
from support.certificates import Certificates, pod_of
from support.certvolume import CertificateVolume, bundle
from support.virtualclock import VirtualClock, rest

DOMAIN = "kmm.sigs.x-k8s.io"
READS_IN_A_STORM = 300
GOOD = "spiffe://kmm.sigs.x-k8s.io/ns/kmm/sa/kmm-daemon/pod/kmm-daemon-x7/5c1f-aa"
DNS_NAMES = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?\Z")


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def certificate(*uris: str, dns: str = "kmm-daemon") -> dict[str, object]:
    return {"subjectAltName": (("DNS", dns), *(("URI", uri) for uri in uris))}


def test_certificate_names_its_pod() -> None:
    assert tls.pod_identity(certificate(GOOD), DOMAIN) == PodIdentity(
        namespace="kmm", service_account="kmm-daemon", name="kmm-daemon-x7", uid="5c1f-aa"
    )


@given(DNS_NAMES, DNS_NAMES, DNS_NAMES, st.uuids().map(str))
def test_identity_comes_back_from_its_uri(ns: str, account: str, name: str, uid: str) -> None:
    identity = PodIdentity(namespace=ns, service_account=account, name=name, uid=uid)
    assert tls.pod_identity(certificate(tls.pod_uri(identity, DOMAIN)), DOMAIN) == identity


@pytest.mark.parametrize(
    "uris",
    [
        (),
        (GOOD, GOOD),
        (GOOD, GOOD.replace("x7", "x8")),
        (GOOD.replace("kmm.sigs.x-k8s.io", "other.example"),),
        (GOOD.replace("kmm.sigs.x-k8s.io", "kmm.sigs.x-k8s.io.other.example"),),
        (GOOD.replace("kmm.sigs.x-k8s.io", "kmmXsigs.x-k8s.io"),),
        (GOOD.replace("/pod/", "/node/"),),
        (GOOD.replace("kmm-daemon-x7", "*"),),
        (GOOD.replace("kmm-daemon-x7", ""),),
        (GOOD.replace("kmm-daemon-x7", "a/b"),),
        (GOOD.replace("kmm-daemon-x7", ".."),),
        (GOOD.replace("kmm-daemon-x7", "A"),),
        (f"{GOOD}/more",),
        (f"{GOOD}\n",),
        (f" {GOOD}",),
        (f"{GOOD}?x=1",),
        (GOOD.removesuffix("5c1f-aa"),),
        (GOOD.upper(),),
        ("https://kmm.sigs.x-k8s.io/",),
    ],
)
def test_certificate_that_names_no_single_pod_is_refused(uris: tuple[str, ...]) -> None:
    with pytest.raises(PeerIdentityError):
        tls.pod_identity(certificate(*uris), DOMAIN)


@pytest.mark.parametrize("nothing", [None, {}])
def test_missing_certificate_is_refused(nothing: dict[str, object] | None) -> None:
    with pytest.raises(PeerIdentityError, match="has 0 URIs"):
        tls.pod_identity(nothing, DOMAIN)


@asynccontextmanager
async def served(server: ServerTls) -> AsyncIterator[int]:
    """Answer every TLS client with its pod's name."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            peer = writer.get_extra_info("ssl_object").getpeercert()
            writer.write(tls.pod_identity(peer, DOMAIN).name.encode() + b"\n")
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server.context)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


@asynccontextmanager
async def dialled(
    port: int, context: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    try:
        yield reader, writer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def ask(port: int, context: ssl.SSLContext) -> str:
    async with dialled(port, context) as (reader, writer):
        writer.write(b"who\n")
        return (await reader.readline()).decode().strip()


async def refused(port: int, context: ssl.SSLContext) -> bool:
    try:
        return await ask(port, context) == ""
    except OSError:
        return True


async def test_both_sides_see_each_other_over_tls_1_3(certificates: Certificates) -> None:
    async with served(ServerTls(certificates.server())) as port:
        context = tls.client_context(certificates.daemon("a"))
        assert await ask(port, context) == pod_of("a").name
        async with dialled(port, context) as (_, writer):
            connection = writer.get_extra_info("ssl_object")
            assert connection.version() == "TLSv1.3"
            assert connection.selected_alpn_protocol() == "h2"


async def test_client_without_a_right_certificate_is_refused(
    certificates: Certificates, tmp_path: Path
) -> None:
    strangers = Certificates(tmp_path / "strangers")
    mixed = TlsFiles(
        cert=(stranger := strangers.daemon("a")).cert,
        key=stranger.key,
        ca=certificates.server().ca,
    )
    none = ssl.create_default_context(cafile=str(mixed.ca))
    none.set_alpn_protocols(["h2"])
    old = tls.client_context(certificates.daemon("a"))
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    for_serving = tls.client_context(certificates.server())
    async with served(ServerTls(certificates.server())) as port:
        assert await refused(port, tls.client_context(mixed)), "signed by a stranger"
        assert await refused(port, none), "without a certificate"
        assert await refused(port, old), "TLS 1.2"
        assert await refused(port, for_serving), "a server's certificate"
        assert await ask(port, tls.client_context(certificates.daemon("a")))


async def test_client_refuses_a_server_that_is_none(certificates: Certificates) -> None:
    impostor = certificates.daemon("a")
    stranger = certificates.issue(
        Identity(common_name="x", hosts=["elsewhere.example"], server=True)
    )
    for files in (impostor, stranger):
        async with served(ServerTls(files)) as port:
            assert await refused(port, tls.client_context(certificates.daemon("b")))


async def test_new_files_hold_for_new_connections_and_old_streams_run_on(
    tmp_path: Path,
) -> None:
    before, after = Certificates(tmp_path / "before"), Certificates(tmp_path / "after")
    files = before.server()
    server = ServerTls(files)
    old, new = tls.client_context(before.daemon("a")), tls.client_context(after.daemon("b"))
    async with served(server) as port, dialled(port, old) as (reader, writer):
        for source, target in zip(_paths(after.server()), _paths(files), strict=True):
            shutil.copy(source, target)
        assert server.reload()
        assert not server.reload()
        assert await ask(port, new) == pod_of("b").name
        assert await refused(port, old)
        writer.write(b"who\n")
        assert (await reader.readline()).decode().strip() == pod_of("a").name


async def test_damaged_files_leave_the_old_ones_and_are_told_once(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kmm_common.tls")
    files, clock = certificates.server(), VirtualClock()
    server = ServerTls(files)
    good = files.cert.read_bytes()
    async with served(server) as port, asyncio.TaskGroup() as tasks:
        fresh = tasks.create_task(server.keep_fresh(clock))
        await rest()
        for content in (b"damaged", b"damaged again", good + b"\n"):
            files.cert.write_bytes(content)
            await _reloaded(clock)
            assert await ask(port, tls.client_context(certificates.daemon("a")))
        fresh.cancel()
    assert [one.message for one in caplog.records if one.name == "kmm_common.tls"] == [
        "certificates not reloaded",
        "certificates reloaded",
    ]


async def _reloaded(clock: VirtualClock) -> None:
    await clock.advance(tls.RELOAD_SECONDS)
    # The files are read in a thread; a second look starts only when the first has ended.
    for _ in range(200):
        if clock.sleeping():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the files were not looked at")


@pytest.mark.parametrize("broken", ["cert", "key", "ca"])
@pytest.mark.parametrize("content", [None, b"", b"no PEM"])
def test_unusable_file_is_named(
    certificates: Certificates, broken: str, content: bytes | None
) -> None:
    files = certificates.server()
    path: Path = getattr(files, broken)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TlsFilesError, match=str(path)):
        ServerTls(files)
    with pytest.raises(TlsFilesError, match=str(path)):
        tls.client_context(files)


@contextmanager
def replaced_for_ever(volume: CertificateVolume, certificates: Certificates) -> Iterator[list[int]]:
    """Replace the files all the time, as kubelet does it; yield how often."""
    authority, count, stop = certificates.authority, [0], threading.Event()
    identity = Identity(common_name="x", uris=(GOOD,), client=True)
    issued = [authority.issue(identity) for _ in range(3)]
    volume.publish(issued[0], bundle(authority))

    def replace() -> None:
        while not stop.is_set():
            count[0] += 1
            volume.publish(issued[count[0] % len(issued)], bundle(authority))

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()


def test_files_replaced_while_they_are_read_always_belong_together(
    certificates: Certificates, tmp_path: Path
) -> None:
    volume = CertificateVolume(tmp_path / "volume")
    with replaced_for_ever(volume, certificates) as count:
        for _ in range(READS_IN_A_STORM):
            tls.client_context(volume.files)
    assert count[0] > READS_IN_A_STORM / 10


def test_key_that_is_not_the_certificates_is_told_in_words(certificates: Certificates) -> None:
    files, other = certificates.daemon("a"), certificates.daemon("a")
    mixed = TlsFiles(cert=files.cert, key=other.key, ca=files.ca)
    with pytest.raises(TlsFilesError) as caught:
        tls.client_context(mixed)
    assert str(caught.value) == (
        f"{files.cert}, {other.key}: the key is not that of the certificate;"
        " put both of one issue there"
    )


async def test_read_buffer_of_a_connection_is_small(certificates: Certificates) -> None:
    tls.bound_read_buffers()
    async with served(ServerTls(certificates.server())) as port:
        context = tls.client_context(certificates.daemon("a"))
        async with dialled(port, context) as (_, writer):
            # asyncio's own protocol: if a newer Python has another buffer, measure anew.
            protocol = writer.transport._ssl_protocol  # type: ignore[attr-defined]
            assert len(protocol._ssl_buffer) == tls.READ_BUFFER_BYTES


def _paths(files: TlsFiles) -> tuple[Path, Path, Path]:
    return files.cert, files.key, files.ca


async def test_port_for_first_certificates_asks_for_none_also_after_a_renewal(
    certificates: Certificates, tmp_path: Path
) -> None:
    volume = CertificateVolume(tmp_path / "volume")
    trusted = bundle(certificates.authority)
    server = Identity(common_name="server", hosts=["localhost"], server=True)
    volume.publish(certificates.authority.issue(server), trusted)
    serving = ServerTls(volume.files, tls.server_only)
    stranger = ssl.create_default_context(cafile=str(volume.files.ca))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=serving.context)
    shown = []
    async with listener:
        for _ in range(2):
            port = listener.sockets[0].getsockname()[1]
            async with dialled(port, stranger) as (reader, writer):
                writer.write(b"hello\n")
                assert await reader.readline() == b"hello\n"
                shown.append(writer.get_extra_info("ssl_object").getpeercert()["serialNumber"])
            volume.publish(certificates.authority.issue(server), trusted)
            assert serving.reload()
    assert len(set(shown)) == 2
