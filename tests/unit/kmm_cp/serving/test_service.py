import asyncio
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from kmm_common.desired import ModuleRef
from kmm_common.tls import TlsFiles, pod_uri
from kmm_common.wire import convert
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_cp.serving.ports import Refusal
from kmm_cp.serving.sender import Claim
from kmm_cp.serving.updates import Kind
from kmm_cp.serving.values import Target
from kmm_daemon.link.channel import LinkChannel
from kmm_sandbox.pki import TRUST_DOMAIN
from support.certificates import pod_of
from support.desired import desired, reported
from support.serving import (
    DEADLINE,
    Serving,
    dialled,
    facts,
    next_update,
    report,
    request,
    serving,
    target,
    until,
    watch,
)
from support.virtualclock import VirtualClock

ONE, TWO = desired("one"), desired("two")
TWO_CHANGED = desired("two", parameters=("debug=1",))


async def refusal(replica: Serving, files: TlsFiles, message: pb.WatchRequest) -> GRPCError:
    async with dialled(replica.port, files) as channel, asyncio.timeout(DEADLINE):
        with pytest.raises(GRPCError) as caught:
            async with watch(channel) as stream:
                await stream.send_message(message, end=True)
                await stream.recv_message()
        return caught.value


async def pull(
    channel: LinkChannel, ref: ModuleRef, *, generation: int = 1, refresh: bool = False
) -> pb.PullCredentialsResponse | None:
    call = channel.request(
        "/kmm.v1.NodeLink/PullCredentials",
        Cardinality.UNARY_UNARY,
        pb.PullCredentialsRequest,
        pb.PullCredentialsResponse,
    )
    message = pb.PullCredentialsRequest(
        module=convert.ref_to_message(ref), uid="nms-1", generation=generation, refresh=refresh
    )
    async with asyncio.timeout(DEADLINE), call as stream:
        await stream.send_message(message, end=True)
        return await stream.recv_message()


async def test_daemon_without_journal_gets_a_snapshot_from_a_quorum_read(replica: Serving) -> None:
    files = replica.node("a", target(3, ONE, TWO))
    replica.world.cache["a"] = target(2, ONE)
    async with dialled(replica.port, files) as channel, watch(channel) as stream:
        await stream.send_message(request(), end=True)
        update = await next_update(stream)
        assert update.kind == pb.UpdateKind.SNAPSHOT
        assert update.session_id
        assert (update.uid, update.generation) == ("nms-1", 3)
        assert [convert.desired_from_message(one) for one in update.upserts] == [ONE, TWO]
        assert replica.world.reads == ["a"]
        await stream.cancel()


async def test_daemon_that_is_current_is_told_so_from_the_cache(replica: Serving) -> None:
    files = replica.node("a", target(3, ONE))
    async with dialled(replica.port, files) as channel, watch(channel) as stream:
        greeting = request(uid="nms-1", generation=3, modules=[ONE])
        await stream.send_message(greeting, end=True)
        update = await next_update(stream)
        assert update.kind == pb.UpdateKind.UNCHANGED
        assert update.upserts == []
        assert replica.world.reads == []
        await stream.cancel()


async def test_change_comes_as_a_diff(replica: Serving) -> None:
    files = replica.node("a", target(3, ONE, TWO))
    async with dialled(replica.port, files) as channel, watch(channel) as stream:
        await stream.send_message(request(), end=True)
        await next_update(stream)
        replica.publish("a", target(4, TWO_CHANGED))
        update = await next_update(stream)
        assert update.kind == pb.UpdateKind.DIFF
        assert (update.base_generation, update.generation) == (3, 4)
        assert [convert.desired_from_message(one) for one in update.upserts] == [TWO_CHANGED]
        assert [convert.ref_from_message(one) for one in update.removals] == [ONE.ref]
        await stream.cancel()
    assert replica.world.sent_kinds == [Kind.SNAPSHOT, Kind.DIFF]


async def test_nothing_is_said_while_there_is_no_desired_state(replica: Serving) -> None:
    files = replica.node("a")
    async with dialled(replica.port, files) as channel, watch(channel) as stream:
        await stream.send_message(request(), end=True)
        await until(lambda: replica.world.reads)
        assert replica.world.claimed == []
        replica.publish("a", target(1, ONE))
        assert (await next_update(stream)).kind == pb.UpdateKind.SNAPSHOT
        await stream.cancel()


async def test_daemon_ahead_of_what_is_persisted_is_told_nothing_until_it_is_overtaken(
    replica: Serving,
) -> None:
    files = replica.node("a", target(5, ONE))
    async with dialled(replica.port, files) as channel, watch(channel) as stream:
        await stream.send_message(request(uid="nms-1", generation=9), end=True)
        await until(lambda: replica.world.behind)
        assert replica.world.behind == [("a", "nms-1", 9)]
        replica.publish("a", target(1, TWO, uid="nms-2"))
        update = await next_update(stream)
        assert (update.kind, update.uid) == (pb.UpdateKind.SNAPSHOT, "nms-2")
        await stream.cancel()


async def test_late_cache_does_not_bring_back_an_object_that_was_replaced(
    replica: Serving,
) -> None:
    files = replica.node("a", target(1, ONE, uid="new"))
    replica.world.cache["a"] = target(7, TWO, uid="old")
    async with dialled(replica.port, files) as channel, watch(channel) as stream:
        await stream.send_message(request(), end=True)
        assert (await next_update(stream)).uid == "new"
        late = target(8, TWO, uid="old")
        replica.notifier.changed("a", replica.world.cache["a"], late)
        replica.publish("a", target(2, ONE, uid="new"))
        update = await next_update(stream)
        assert (update.uid, update.kind) == ("new", pb.UpdateKind.DIFF)
        await stream.cancel()


@pytest.mark.parametrize(
    "restored", [target(2, ONE), target(3, TWO)], ids=["lower generation", "other content"]
)
async def test_state_that_goes_back_in_time_ends_the_session_for_another_greeting(
    replica: Serving, restored: Target
) -> None:
    """A daemon that has carried out more than is persisted now is dealt with at its greeting."""
    files = replica.node("a", target(3, ONE))
    async with dialled(replica.port, files) as channel:
        with pytest.raises(GRPCError) as caught:
            async with watch(channel) as stream:
                await stream.send_message(request(), end=True)
                assert (await next_update(stream)).generation == 3
                replica.publish("a", restored)
                await stream.recv_message()
                await stream.recv_trailing_metadata()
        assert caught.value.status is Status.ABORTED
        assert "went back in time" in (caught.value.message or "")


async def test_object_that_comes_back_after_its_successor_ends_the_session_for_another_greeting(
    replica: Serving,
) -> None:
    """etcd was restored once more, to before the object that the first time was made anew."""
    files = replica.node("a", target(3, ONE, uid="first"))
    async with dialled(replica.port, files) as channel:
        with pytest.raises(GRPCError) as caught:
            async with watch(channel) as stream:
                await stream.send_message(request(), end=True)
                assert (await next_update(stream)).uid == "first"
                replica.publish("a", target(1, ONE, uid="second"))
                assert (await next_update(stream)).uid == "second"
                replica.publish("a", target(3, ONE, uid="first"))
                await stream.recv_message()
                await stream.recv_trailing_metadata()
        assert "went back in time" in (caught.value.message or "")


async def test_late_cache_that_catches_up_ends_nothing(replica: Serving) -> None:
    files = replica.node("a", target(3, ONE))
    replica.world.cache["a"] = target(1, TWO)
    async with dialled(replica.port, files) as channel, watch(channel) as stream:
        greeting = request(uid="nms-1", generation=2)
        await stream.send_message(greeting, end=True)
        assert (await next_update(stream)).generation == 3
        for before, now in [(target(1, TWO), target(2, TWO)), (target(2, TWO), target(3, ONE))]:
            replica.notifier.changed("a", before, now)
        replica.publish("a", target(4, TWO))
        assert (await next_update(stream)).generation == 4
        await stream.cancel()


async def test_acknowledgement_and_report_arrive(replica: Serving) -> None:
    files = replica.node("a", target(3, ONE))
    async with dialled(replica.port, files) as channel, watch(channel) as stream:
        await stream.send_message(request(), end=True)
        update = await next_update(stream)
        async with report(channel) as reports:
            hello = pb.ReportHello(session_id=update.session_id)
            await reports.send_message(pb.ReportMessage(hello=hello))
            await reports.send_message(pb.ReportMessage(ack=pb.Ack(uid="nms-1", generation=3)))
            state = pb.StateReport(
                sequence=4,
                uid="nms-1",
                observed_generation=3,
                accepted_uid="nms-1",
                accepted_generation=4,
                modules=[convert.reported_to_message(reported("one"))],
            )
            await reports.send_message(pb.ReportMessage(state=state), end=True)
            summary = await reports.recv_message()
            assert summary is not None
            assert summary.reports == 2
        assert await stream.recv_message() is None
    node, said = replica.world.reports[-1]
    assert (node, said.sequence, said.modules) == ("a", 4, (reported("one"),))
    assert (said.accepted_uid, said.accepted_generation) == ("nms-1", 4)


async def opened_report(
    channel: LinkChannel, session_id: str, message: pb.ReportMessage | None = None
) -> GRPCError:
    with pytest.raises(GRPCError) as caught:
        async with asyncio.timeout(DEADLINE), report(channel) as reports:
            hello = pb.ReportMessage(hello=pb.ReportHello(session_id=session_id))
            await reports.send_message(hello if message is None else message)
            await reports.recv_message()
    return caught.value


async def test_report_without_its_watch_is_refused(replica: Serving) -> None:
    mine, other = replica.node("a", target(1, ONE)), replica.node("b", target(1, ONE))
    async with dialled(replica.port, mine) as channel, watch(channel) as stream:
        await stream.send_message(request(), end=True)
        session_id = (await next_update(stream)).session_id
        assert (await opened_report(channel, "another")).status is Status.FAILED_PRECONDITION
        async with dialled(replica.port, mine) as second:
            error = await opened_report(second, session_id)
            assert error.status is Status.FAILED_PRECONDITION, "on another connection"
        async with dialled(replica.port, other) as third:
            error = await opened_report(third, session_id)
            assert error.status is Status.FAILED_PRECONDITION, "of another node"
        await stream.cancel()


@pytest.mark.parametrize(
    "message",
    [
        pb.ReportMessage(),
        pb.ReportMessage(ack=pb.Ack()),
        pb.ReportMessage(hello=pb.ReportHello(), ack=pb.Ack()),
    ],
    ids=["nothing", "no hello", "two members"],
)
async def test_report_that_starts_wrongly_is_refused(
    replica: Serving, message: pb.ReportMessage
) -> None:
    files = replica.node("a", target(1, ONE))
    async with dialled(replica.port, files) as channel:
        error = await opened_report(channel, "", message)
        assert error.status is Status.INVALID_ARGUMENT


async def test_end_of_the_report_ends_the_watch(replica: Serving) -> None:
    files = replica.node("a", target(1, ONE))
    async with dialled(replica.port, files) as channel:
        with pytest.raises(GRPCError) as caught:
            async with watch(channel) as stream:
                await stream.send_message(request(), end=True)
                session_id = (await next_update(stream)).session_id
                async with report(channel) as reports:
                    hello = pb.ReportHello(session_id=session_id)
                    await reports.send_message(pb.ReportMessage(hello=hello))
                    await until(lambda: replica.sessions.all()[0].reporting)
                    await reports.cancel()
                async with asyncio.timeout(DEADLINE):
                    await stream.recv_message()
        assert caught.value.status is Status.CANCELLED
    await until(lambda: not replica.sessions.nodes())


async def test_end_of_the_watch_ends_the_report(replica: Serving) -> None:
    files = replica.node("a", target(1, ONE))
    async with dialled(replica.port, files) as channel, watch(channel) as stream:
        await stream.send_message(request(), end=True)
        session_id = (await next_update(stream)).session_id
        with pytest.raises(GRPCError) as caught:
            async with asyncio.timeout(DEADLINE), report(channel) as reports:
                hello = pb.ReportHello(session_id=session_id)
                await reports.send_message(pb.ReportMessage(hello=hello))
                await until(lambda: replica.sessions.all()[0].reporting)
                await stream.cancel()
                await reports.recv_message()
        assert caught.value.status is Status.CANCELLED


async def test_snapshot_that_the_daemon_refuses_is_not_sent_again_until_something_changes(
    replica: Serving,
) -> None:
    files = replica.node("a", target(3, ONE))
    async with dialled(replica.port, files) as channel, watch(channel) as stream:
        await stream.send_message(request(uid="nms-1", generation=3, modules=[ONE]), end=True)
        update = await next_update(stream)
        assert update.kind == pb.UpdateKind.UNCHANGED
        async with report(channel) as reports:
            resync = pb.ReportMessage(resync=pb.Resync(reason="content hash differs"))
            hello = pb.ReportHello(session_id=update.session_id)
            await reports.send_message(pb.ReportMessage(hello=hello))
            await reports.send_message(resync)
            assert (await next_update(stream)).kind == pb.UpdateKind.SNAPSHOT
            await reports.send_message(resync)
            await until(lambda: replica.sessions.all()[0].progress.refused == ("nms-1", 3))
            replica.publish("a", target(4, ONE, TWO))
            update = await next_update(stream)
            assert (update.kind, update.generation) == (pb.UpdateKind.SNAPSHOT, 4)
            await reports.cancel()
        await stream.cancel()


async def test_newest_session_of_a_node_wins(replica: Serving) -> None:
    files = replica.node("a", target(1, ONE))
    async with (
        dialled(replica.port, files) as old,
        dialled(replica.port, files) as new,
        watch(new) as winner,
    ):
        with pytest.raises(GRPCError) as caught:
            async with watch(old) as loser:
                await loser.send_message(request(instance="old"), end=True)
                await next_update(loser)
                await winner.send_message(request(instance="new"), end=True)
                await next_update(winner)
                await next_update(loser)
        assert caught.value.status is Status.ABORTED
        assert [one.greeting.instance for one in replica.sessions.all()] == ["new"]
        await winner.cancel()


async def test_newest_valid_pod_of_a_node_keeps_its_session_from_an_older_one(
    replica: Serving,
) -> None:
    """Two pods of one node that both are daemons, as somebody may make one by hand."""
    older, newer = replica.node("a", target(1, ONE)), replica.certificates.daemon("newer")
    old_facts = facts("a", created="2026-01-01T00:00:00Z")
    new_facts = facts(
        "newer", scheduled="a", uid=pod_of("newer").uid, created="2026-01-02T00:00:00Z"
    )
    pods = replica.world.pods
    pods[pod_of("a").name], pods[pod_of("newer").name] = old_facts, new_facts
    async with dialled(replica.port, newer) as channel, watch(channel) as stream:
        await stream.send_message(request(instance="newer"), end=True)
        await next_update(stream)
        error = await refusal(replica, older, request(instance="older"))
        assert error.status is Status.PERMISSION_DENIED
        assert replica.world.refusals == [Refusal.OLDER_POD]
        (session,) = replica.sessions.all()
        assert session.greeting.instance == "newer"
        assert session.ending is None
        await stream.cancel()
    await until(lambda: not replica.sessions.all())
    # With another replica, as the node's status has it.
    replica.world.holders["a"] = pod_of("newer").name
    error = await refusal(replica, older, request(instance="older"))
    assert error.status is Status.PERMISSION_DENIED
    replica.world.holders.clear()
    # Without a session of the newer one the older one serves the node.
    async with dialled(replica.port, older) as channel, watch(channel) as stream:
        await stream.send_message(request(instance="older"), end=True)
        await next_update(stream)
        await stream.cancel()


async def test_session_that_lost_the_claim_is_closed_before_anything_is_pushed(
    replica: Serving,
) -> None:
    files = replica.node("a", target(1, ONE))
    replica.world.claims["a"] = Claim.LOST
    assert (await refusal(replica, files, request())).status is Status.ABORTED


async def test_peer_is_refused_unless_its_pod_is_the_nodes_daemon(replica: Serving) -> None:
    files = replica.node("a", target(1, ONE))
    pods, name = replica.world.pods, pod_of("a").name
    cases = [
        (None, Status.UNAVAILABLE),
        (facts("a", uid="another"), Status.PERMISSION_DENIED),
        (facts("a", deleting=True), Status.PERMISSION_DENIED),
        (facts("a", service_account="default"), Status.PERMISSION_DENIED),
        (facts("a", scheduled=""), Status.UNAVAILABLE),
    ]
    for known, status in cases:
        if known is None:
            del pods[name]
        else:
            pods[name] = known
        error = await refusal(replica, files, request())
        assert error.status is status
        assert "nms-1" not in str(error), "nothing about others"
    assert replica.world.reads == []


async def test_certificate_without_a_pod_of_ours_is_refused_and_told(replica: Serving) -> None:
    replica.node("a", target(1, ONE))
    stranger = replica.certificates.uris(pod_uri(pod_of("a"), "other.example"))
    error = await refusal(replica, stranger, request())
    assert error.status is Status.PERMISSION_DENIED
    assert len(replica.world.refusals) == 1
    two = replica.certificates.uris(
        pod_uri(pod_of("a"), TRUST_DOMAIN), pod_uri(pod_of("b"), TRUST_DOMAIN)
    )
    assert (await refusal(replica, two, request())).status is Status.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"protocol_version": 2}, Status.FAILED_PRECONDITION, "needs version 1"),
        ({"protocol_version": 0}, Status.FAILED_PRECONDITION, "needs version 1"),
        (
            {"protocol_version": 3, "oldest_protocol_version": 2},
            Status.FAILED_PRECONDITION,
            "needs version 1: use a daemon of its release",
        ),
        ({"instance": ""}, Status.INVALID_ARGUMENT, "instance is missing"),
        ({"boot_id": "x" * 2000}, Status.INVALID_ARGUMENT, "boot_id has more than 1024"),
        ({"state": None}, Status.INVALID_ARGUMENT, "state is missing"),
        (
            {"state": pb.StateReport(modules=[pb.ModuleReport(namespace="a", name="b")])},
            Status.INVALID_ARGUMENT,
            "a/b: state 0 is not known",
        ),
    ],
)
async def test_wrong_greeting_is_refused_with_the_field(
    replica: Serving, changes: dict[str, Any], status: Status, text: str
) -> None:
    error = await refusal(replica, replica.node("a", target(1, ONE)), request(**changes))
    assert error.status is status
    assert text in (error.message or "")


async def test_nobody_is_served_before_the_caches_are_synced(replica: Serving) -> None:
    files = replica.node("a", target(1, ONE))
    replica.ready = False
    assert (await refusal(replica, files, request())).status is Status.UNAVAILABLE
    assert replica.world.reports == []


async def test_credentials_are_answered_for_the_nodes_own_secret_only(replica: Serving) -> None:
    private = desired("private", secret="pull")
    mine, other = replica.node("a", target(1, private)), replica.node("b", target(1, ONE))
    config = b'{"auths": {"registry.example": {"username": "u", "password": "p"}}}'
    replica.world.secrets["default", "pull"] = {".dockerconfigjson": config}
    async with dialled(replica.port, mine) as channel:
        answer = await pull(channel, private.ref)
        assert answer is not None
        assert answer.credentials == [
            pb.RegistryCredential(registry="registry.example", username="u", password="p")
        ]
        with pytest.raises(GRPCError) as caught:
            await pull(channel, private.ref, generation=2)
        assert caught.value.status is Status.UNAVAILABLE, "the cache may be behind"
        with pytest.raises(GRPCError) as caught:
            await pull(channel, ModuleRef("default", ""))
        assert caught.value.status is Status.INVALID_ARGUMENT
    async with dialled(replica.port, other) as channel:
        for ref in (private.ref, ONE.ref):
            with pytest.raises(GRPCError) as caught:
                await pull(channel, ref)
            assert caught.value.status is Status.PERMISSION_DENIED
            assert "pull" not in (caught.value.message or "").replace("pull secret", "")


async def test_no_credentials_for_a_certificate_that_expired_during_the_connection(
    tmp_path: Path,
) -> None:
    clock = VirtualClock()
    await clock.advance(5 * 365 * 86400.0)
    private = desired("private", secret="pull")
    async with serving(tmp_path, clock=clock) as replica:
        files = replica.node("a", target(1, private))
        async with dialled(replica.port, files) as channel:
            with pytest.raises(GRPCError, match="expired") as caught:
                await pull(channel, private.ref)
        assert caught.value.status is Status.PERMISSION_DENIED
        assert replica.world.secret_reads == []


async def test_missing_or_broken_secret_is_told_without_its_content(replica: Serving) -> None:
    private = desired("private", secret="pull")
    files = replica.node("a", target(1, private))
    async with dialled(replica.port, files) as channel:
        with pytest.raises(GRPCError) as caught:
            await pull(channel, private.ref)
        assert caught.value.status is Status.NOT_FOUND
        assert "default/pull does not exist" in (caught.value.message or "")
        replica.world.secrets["default", "pull"] = {".dockerconfigjson": b"s3cret"}
        with pytest.raises(GRPCError) as caught:
            await pull(channel, private.ref, refresh=True)
        assert caught.value.status is Status.FAILED_PRECONDITION
        assert "s3cret" not in (caught.value.message or "")


async def test_connection_loss_ends_the_session(replica: Serving) -> None:
    files = replica.node("a", target(1, ONE))
    async with dialled(replica.port, files) as channel:
        with pytest.raises(StreamTerminatedError):
            async with watch(channel) as stream:
                await stream.send_message(request(), end=True)
                await next_update(stream)
                assert replica.sessions.nodes() == {"a"}
                channel.close()
                await stream.recv_message()
    await until(lambda: not replica.sessions.nodes())
