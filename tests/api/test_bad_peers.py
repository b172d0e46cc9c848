"""Peers that are no daemon, or not that of the node they would like to be, disturb no session."""

import asyncio
import dataclasses
import ssl
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from kmm_common.tls import PodIdentity, TlsFiles, pod_uri
from kmm_cp.serving.ports import Refusal
from kmm_sandbox.pki import TRUST_DOMAIN
from support.certificates import NAMESPACE, SERVICE_ACCOUNT, Certificates
from support.fleet import Fleet, eventually
from support.serving import DEADLINE, Watch, dialled, request, watch
from support.simnode import PODS
from support.undisturbed import undisturbed


def _identity(fleet: Fleet, **changes: str) -> PodIdentity:
    pod = "kmm-daemon-" + f"{fleet.name}-honest"
    uid = fleet.api.get(f"{PODS}/{pod}")["metadata"]["uid"]
    known = PodIdentity(namespace=NAMESPACE, service_account=SERVICE_ACCOUNT, name=pod, uid=uid)
    return dataclasses.replace(known, **changes)


def _files(fleet: Fleet, **changes: str) -> TlsFiles:
    return fleet.control_plane.certificates.uris(pod_uri(_identity(fleet, **changes), TRUST_DOMAIN))


async def _refusal(fleet: Fleet, files: TlsFiles) -> GRPCError:
    """Greet as a daemon would; return how the control plane refuses."""
    async with asyncio.timeout(DEADLINE), dialled(fleet.control_plane.port, files) as channel:
        with pytest.raises(GRPCError) as caught:
            async with watch(channel) as stream:
                await stream.send_message(request(), end=True)
                await _answer(stream)
    return caught.value


async def _answer(stream: Watch) -> None:
    await stream.recv_message()
    await stream.recv_trailing_metadata()


@pytest.mark.parametrize(
    "changes",
    [
        {"uid": "00000000-0000-0000-0000-000000000000"},
        {"service_account": "default"},
        {"namespace": "default"},
    ],
    ids=["deleted pod", "other account", "other namespace"],
)
async def test_certificate_that_is_no_daemons_is_refused_and_learns_nothing(
    fleet: Fleet, changes: dict[str, str]
) -> None:
    async with undisturbed(fleet) as node:
        files = await asyncio.to_thread(_files, fleet, **changes)
        refusal = await _refusal(fleet, files)
        assert refusal.status is Status.PERMISSION_DENIED
        assert (refusal.message or "").startswith("not a daemon of this cluster: ")
        assert node.name not in (refusal.message or "")


async def test_pod_that_nobody_knows_is_told_to_try_again(fleet: Fleet) -> None:
    async with undisturbed(fleet):
        files = await asyncio.to_thread(_files, fleet, name="kmm-daemon-unknown")
        refusal = await _refusal(fleet, files)
        assert refusal.status is Status.UNAVAILABLE


async def test_certificate_of_a_deleted_pod_ends_its_session_rights(fleet: Fleet) -> None:
    async with undisturbed(fleet):
        node = await fleet.node("replaced")
        files = await asyncio.to_thread(node.certificate)
        await node.stop()
        await asyncio.to_thread(fleet.api.delete, f"{PODS}/{node.pod}")
        await asyncio.to_thread(node.register_pod)
        refusal = await eventually(
            lambda: _refusal(fleet, files),
            lambda refusal: refusal.status is Status.PERMISSION_DENIED,
        )
        assert "earlier pod" in (refusal.message or "")
        await node.start()
        await fleet.loaded(node, name="before")


async def test_daemon_with_the_certificate_of_another_node_speaks_for_that_node_only(
    fleet: Fleet,
) -> None:
    """It takes over the session of its certificate's node; what it is on does not matter."""
    async with undisturbed(fleet):
        rogue = await fleet.node("rogue", daemon=False)
        files = await asyncio.to_thread(rogue.certificate)
        async with dialled(fleet.control_plane.port, files) as channel, watch(channel) as stream:
            await stream.send_message(request(), end=True)
            async with asyncio.timeout(DEADLINE):
                update = await stream.recv_message()
            assert update is not None
            state = await fleet.state(rogue) or {}
            assert update.uid == state["metadata"]["uid"]
            await stream.cancel()


async def test_length_of_one_gib_ends_that_stream_only_and_leaves_one_line(fleet: Fleet) -> None:
    async with undisturbed(fleet) as node:
        files = await asyncio.to_thread(node.certificate)
        async with dialled(fleet.control_plane.port, files) as channel:
            with pytest.raises(GRPCError) as caught:
                async with asyncio.timeout(DEADLINE), watch(channel) as stream:
                    await stream.send_request()
                    await stream._stream.send_data(b"\x00" + struct.pack(">I", 2**30) + b"x" * 99)
                    await stream.recv_message()
        assert caught.value.status is Status.RESOURCE_EXHAUSTED
        (line,) = fleet.control_plane.told("peer refused", reason=Refusal.MESSAGE_TOO_LARGE)
        assert str(2**30) in line["error"] and line["remedy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Knock:
    """A connection that never gets as far as a call; each from an address of its own."""

    refusal: Refusal
    host: str
    files: str
    """Empty: no TLS; own: the node's; none: no certificate; foreign: of another authority;
    suspicious: trusts another authority."""
    content: bytes
    remedy: str


KNOCKS = [
    Knock(
        refusal=Refusal.NO_TLS,
        host="127.0.1.1",
        files="",
        content=b"GET /metrics HTTP/1.1\r\n\r\n",
        remedy="probes at metrics_listen",
    ),
    Knock(
        refusal=Refusal.HANDSHAKE_FAILED,
        host="127.0.1.2",
        files="suspicious",
        content=b"",
        remedy="its tls.ca must hold the authority of the control plane's tls.cert",
    ),
    Knock(
        refusal=Refusal.NO_CERTIFICATE,
        host="127.0.1.3",
        files="none",
        content=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        remedy="tls.cert and tls.key",
    ),
    Knock(
        refusal=Refusal.UNTRUSTED_CERTIFICATE,
        host="127.0.1.4",
        files="foreign",
        content=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        remedy="issued by an authority in the control plane's tls.ca",
    ),
    Knock(
        refusal=Refusal.NO_HTTP2,
        host="127.0.1.5",
        files="own",
        content=b"\xff" * 100_000,
        remedy="daemons of this version",
    ),
]
TIMES = 3


@pytest.mark.parametrize("knock", KNOCKS, ids=lambda knock: knock.refusal.value)
async def test_who_is_no_peer_disturbs_nobody_and_leaves_one_line(
    fleet: Fleet, tmp_path: Path, knock: Knock
) -> None:
    """However often it comes back; the metric counts every time."""
    before = await asyncio.to_thread(_refused, fleet, knock.refusal)
    async with undisturbed(fleet) as node:
        own = await asyncio.to_thread(node.certificate)
        context = _context(knock, own, Certificates(tmp_path / "foreign"))
        for _ in range(TIMES):
            await _knock(fleet, knock, context)
        await eventually(
            lambda: asyncio.to_thread(_refused, fleet, knock.refusal),
            lambda counted: counted >= before + TIMES,
        )
        lines = fleet.control_plane.told("peer refused", reason=knock.refusal)
        (line,) = [line for line in lines if line["peer"].startswith(f"{knock.host}:")]
        assert line["level"] == "warning"
        assert line["error"]
        assert knock.remedy in line["remedy"]


def _context(knock: Knock, own: TlsFiles, foreign: Certificates) -> ssl.SSLContext | None:
    if not knock.files:
        return None
    identity = PodIdentity(
        namespace=NAMESPACE, service_account=SERVICE_ACCOUNT, name="pod", uid="uid"
    )
    theirs = foreign.uris(pod_uri(identity, TRUST_DOMAIN))
    trusted = theirs if knock.files == "suspicious" else own
    context = ssl.create_default_context(cafile=str(trusted.ca))
    context.set_alpn_protocols(["h2"])
    if knock.files != "none":
        shown = theirs if knock.files == "foreign" else own
        context.load_cert_chain(shown.cert, shown.key)
    return context


async def _knock(fleet: Fleet, knock: Knock, context: ssl.SSLContext | None) -> None:
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            fleet.control_plane.port,
            ssl=context,
            server_hostname="localhost" if context else None,
            local_addr=(knock.host, 0),
        )
    except ssl.SSLCertVerificationError:
        assert knock.files == "suspicious"
        return
    try:
        writer.write(knock.content)
        async with asyncio.timeout(DEADLINE):
            await _to_the_end(reader)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def _refused(fleet: Fleet, refusal: Refusal) -> float:
    sample = f'kmm_cp_refused_peers_total{{reason="{refusal}"}} '
    lines = fleet.control_plane.metrics().splitlines()
    return sum(float(line.removeprefix(sample)) for line in lines if line.startswith(sample))


async def _to_the_end(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65536):
            pass
    except OSError:
        return
