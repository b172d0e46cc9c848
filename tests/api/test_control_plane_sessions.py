"""What silence means, and what a daemon's journal says to a control plane that knows less."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.exceptions import ProtocolError

from kmm_common.tls import PodIdentity, TlsFiles, pod_uri
from kmm_cp.serving.ports import Refusal
from kmm_cp.serving.sessions import FLAPPING_TAKEOVERS
from kmm_daemon.link.channel import LinkChannel
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.pki import TRUST_DOMAIN
from support.certificates import NAMESPACE, SERVICE_ACCOUNT
from support.fleet import Fleet, eventually
from support.history import Line
from support.serving import DEADLINE, Watch, dialled, request, watch
from support.simnode import PODS, SimNode


async def test_silent_daemon_and_silent_kubelet_unload_nothing(fleet: Fleet) -> None:
    silent, other = await fleet.node("a"), await fleet.node("b")
    await fleet.apply()
    await fleet.loaded()
    await silent.silence()
    await asyncio.to_thread(silent.say_status, ready=False)
    await eventually(fleet.served, lambda served: silent.name not in served)
    await fleet.set_parameters("m", "speed=2")
    await eventually(
        lambda: asyncio.sleep(0, other.kernel.parameters.get("m")),
        lambda found: found == ("speed=2",),
    )
    await fleet.reconciled()
    assert fleet.label() in await fleet.labels(silent)
    assert "m" in await fleet.entries(silent)
    assert silent.kernel.parameters["m"] == ()
    assert silent.kernel.unloads(fleet.ref()) == 0


async def test_daemon_that_was_silent_catches_up(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    await node.silence()
    await fleet.set_parameters("m", "speed=2")
    await fleet.apply("other")
    await eventually(lambda: fleet.entries(node), lambda entries: "other" in entries)
    await node.restart()
    await fleet.loaded(name="other")
    await fleet.loaded()
    assert node.kernel.parameters["m"] == ("speed=2",)


async def test_daemon_that_is_ahead_of_a_restored_etcd_gets_a_new_state(fleet: Fleet) -> None:
    node = await fleet.node(daemon=False)
    await fleet.apply()
    old = await eventually(lambda: fleet.state(node))
    uid = old["metadata"]["uid"]
    files = await asyncio.to_thread(node.certificate)
    async with dialled(fleet.control_plane.port, files) as channel, watch(channel) as stream:
        await stream.send_message(request(uid=uid, generation=99), end=True)
        async with asyncio.timeout(DEADLINE):
            update = await stream.recv_message()
        assert update is not None
        assert update.uid != uid
        assert [upsert.name for upsert in update.upserts] == ["m"]
        await stream.cancel()
    new = await fleet.state(node) or {}
    assert new["metadata"]["uid"] == update.uid
    events = await eventually(lambda: fleet.events("default", node.name))
    assert [reason for reason, _ in events] == ["StateRestored"]


async def test_daemon_started_without_any_module_gets_an_empty_state(fleet: Fleet) -> None:
    node = await fleet.node()
    state = await eventually(lambda: fleet.state(node))
    assert not state["spec"].get("modules")
    await fleet.settled()
    daemon = (await fleet.state(node) or {})["status"]["daemon"]
    assert (daemon["connected"], daemon["podName"]) == (True, node.pod)


async def test_newest_daemon_of_a_node_has_its_session(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    files = await asyncio.to_thread(node.certificate)
    with pytest.raises(GRPCError) as caught:
        async with dialled(fleet.control_plane.port, files) as channel, watch(channel) as stream:
            await stream.send_message(request(instance="copied"), end=True)
            async with asyncio.timeout(DEADLINE):
                while await stream.recv_message() is not None:
                    pass
                await stream.recv_trailing_metadata()
    assert caught.value.status is Status.ABORTED
    opened = fleet.control_plane.told("session opened", node=node.name)
    assert [line["instance"] == "copied" for line in opened] == [False, True, False]
    await fleet.set_parameters("m", "speed=2")
    await eventually(
        lambda: asyncio.sleep(0, node.kernel.parameters.get("m")),
        lambda found: found == ("speed=2",),
    )
    assert (await fleet.state(node) or {})["status"]["daemon"]["instance"] != "copied"


async def test_newest_pod_of_a_node_has_its_session_until_it_goes(fleet: Fleet) -> None:
    """Also after its session has ended: its daemon may come back, and its Pod says so."""
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    first = await asyncio.to_thread(fleet.api.get, f"{PODS}/{node.pod}")
    newer = await eventually(lambda: _newer_pod(fleet, node, first))
    identity = PodIdentity(
        namespace=NAMESPACE, service_account=SERVICE_ACCOUNT, name=newer["name"], uid=newer["uid"]
    )
    issue = fleet.control_plane.certificates.uris
    files = await asyncio.to_thread(issue, pod_uri(identity, TRUST_DOMAIN))
    async with dialled(fleet.control_plane.port, files) as channel, watch(channel) as stream:
        await stream.send_message(request(instance="newer"), end=True)
        await eventually(lambda: _refused(fleet, node))
        state = await fleet.state(node) or {}
        assert state["status"]["daemon"]["podName"] == newer["name"]
        await stream.cancel()
    await eventually(fleet.served, lambda served: node.name not in served)
    before = await asyncio.to_thread(_refusals, fleet)
    await node.restart()
    await eventually(lambda: asyncio.to_thread(_refusals, fleet), before.__lt__)
    assert node.name not in await fleet.served()
    opened = len(fleet.control_plane.told("session opened", node=node.name))
    await asyncio.to_thread(fleet.api.delete, f"{PODS}/{newer['name']}")
    await eventually(lambda: asyncio.to_thread(_opened, fleet, node.name), opened.__lt__)
    await fleet.apply("other")
    await fleet.loaded(name="other")
    assert node.kernel.loads(fleet.ref()) == 1


def _refusals(fleet: Fleet) -> float:
    sample = f'kmm_cp_refused_peers_total{{reason="{Refusal.OLDER_POD}"}} '
    lines = fleet.control_plane.metrics().splitlines()
    return sum(float(line.removeprefix(sample)) for line in lines if line.startswith(sample))


async def _newer_pod(fleet: Fleet, node: SimNode, first: Object) -> Object | None:
    """Make another daemon's Pod of a node, in another second than the first."""
    name = f"{node.pod}-newer"
    body = {"metadata": {"name": name}, "spec": _copied(first["spec"])}
    made: Object = (await asyncio.to_thread(fleet.api.create, PODS, body))["metadata"]
    if made["creationTimestamp"] > first["metadata"]["creationTimestamp"]:
        return made
    await asyncio.to_thread(fleet.api.delete, f"{PODS}/{name}")
    return None


def _copied(spec: Object) -> Object:
    """Return what of a Pod's spec its maker has written."""
    kept = ("nodeName", "serviceAccountName", "containers", "tolerations")
    return {
        **{key: spec[key] for key in kept},
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
    }


async def _refused(fleet: Fleet, node: SimNode) -> list[Line]:
    peer = f"{NAMESPACE}/{node.pod}"
    return fleet.control_plane.told("peer refused", reason=Refusal.OLDER_POD, peer=peer)


async def test_daemons_that_take_a_session_from_each_other_are_an_event_on_the_node(
    fleet: Fleet,
) -> None:
    node = await fleet.node(daemon=False)
    files = await asyncio.to_thread(node.certificate)
    async with AsyncExitStack() as stack:
        for number in range(FLAPPING_TAKEOVERS + 1):
            channel = await stack.enter_async_context(dialled(fleet.control_plane.port, files))
            stream = await stack.enter_async_context(taken_over(channel))
            await stream.send_message(request(instance=f"copy-{number}"), end=True)
            await eventually(lambda: asyncio.to_thread(_opened, fleet, node.name), number.__lt__)
    ((reason, message),) = await eventually(lambda: fleet.events("default", node.name))
    assert reason == "SessionFlapping"
    assert "took its session from each other 3 times" in message


@asynccontextmanager
async def taken_over(channel: LinkChannel) -> AsyncIterator[Watch]:
    """Open a Watch that may be ended by another one's."""
    with suppress(GRPCError, ProtocolError):
        async with watch(channel) as stream:
            yield stream
            await stream.cancel()


def _opened(fleet: Fleet, node: str) -> int:
    return len(fleet.control_plane.told("session opened", node=node))


async def test_peer_without_a_right_is_refused_and_told_once_on_the_pod_it_names(
    fleet: Fleet,
) -> None:
    node = await fleet.node()
    former = PodIdentity(
        namespace=NAMESPACE, service_account=SERVICE_ACCOUNT, name=node.pod, uid="former"
    )
    issue = fleet.control_plane.certificates.uris
    files = await asyncio.to_thread(issue, pod_uri(former, TRUST_DOMAIN))
    for _ in range(3):
        assert await _refusal(fleet, files) is Status.PERMISSION_DENIED
    told = await eventually(lambda: fleet.events(NAMESPACE, node.pod))
    ((reason, message),) = told
    assert (reason, told[reason, message]) == ("IdentityRefused", 1)
    assert f"{NAMESPACE}/{node.pod}" in message
    assert "earlier pod" in message
    await fleet.apply()
    await fleet.loaded()


async def test_peer_of_no_pod_that_we_know_is_told_in_our_namespace(fleet: Fleet) -> None:
    stranger = PodIdentity(namespace=fleet.name, service_account="x", name="stranger", uid="1")
    issue = fleet.control_plane.certificates.uris
    files = await asyncio.to_thread(issue, pod_uri(stranger, TRUST_DOMAIN))
    assert await _refusal(fleet, files) is Status.PERMISSION_DENIED
    # The control plane is shared: another test's stranger may have been told first.
    told = await eventually(lambda: fleet.events(NAMESPACE, NAMESPACE))
    assert "IdentityRefused" in {reason for reason, _ in told}


async def _refusal(fleet: Fleet, files: TlsFiles) -> Status:
    with pytest.raises(GRPCError) as caught:
        async with dialled(fleet.control_plane.port, files) as channel, watch(channel) as stream:
            await stream.send_message(request(), end=True)
            async with asyncio.timeout(DEADLINE):
                await stream.recv_message()
                await stream.recv_trailing_metadata()
    return caught.value.status
