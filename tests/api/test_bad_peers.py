"""Peers that are no daemon, or not that of the node they would like to be, disturb no session."""

import asyncio
import dataclasses
import struct
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from kmm_common.tls import PodIdentity, TlsFiles, client_context, pod_uri
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


async def test_certificate_of_another_authority_gets_no_connection(
    fleet: Fleet, tmp_path: Path
) -> None:
    async with undisturbed(fleet):
        identity = await asyncio.to_thread(_identity, fleet)
        foreign = Certificates(tmp_path / "foreign").uris(pod_uri(identity, TRUST_DOMAIN))
        trusted = await asyncio.to_thread(_files, fleet)
        files = dataclasses.replace(foreign, ca=trusted.ca)
        with pytest.raises((OSError, StreamTerminatedError)):
            await _refusal(fleet, files)


async def test_length_of_one_gib_ends_that_stream_only(fleet: Fleet) -> None:
    async with undisturbed(fleet) as node:
        files = await asyncio.to_thread(node.certificate)
        async with dialled(fleet.control_plane.port, files) as channel:
            with pytest.raises(GRPCError) as caught:
                async with asyncio.timeout(DEADLINE), watch(channel) as stream:
                    await stream.send_request()
                    await stream._stream.send_data(b"\x00" + struct.pack(">I", 2**30) + b"x" * 99)
                    await stream.recv_message()
        assert caught.value.status is Status.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("inside_tls", [False, True], ids=["plain", "tls"])
async def test_garbage_on_the_port_disturbs_nobody(fleet: Fleet, *, inside_tls: bool) -> None:
    async with undisturbed(fleet) as node:
        files = await asyncio.to_thread(node.certificate)
        context = client_context(files) if inside_tls else None
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            fleet.control_plane.port,
            ssl=context,
            server_hostname="localhost" if context else None,
        )
        try:
            writer.write(b"\xff" * 100_000)
            async with asyncio.timeout(DEADLINE):
                await _to_the_end(reader)
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def _to_the_end(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65536):
            pass
    except OSError:
        return
