"""Daemon and control plane of two releases: who gets more than it knows goes on without it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from kmm_common import desired as values
from kmm_common.desired import DesiredModule
from kmm_common.wire import convert
from kmm_common.wire import fragments as wire
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_cp.serving import fragments
from kmm_daemon.link import messages
from kmm_daemon.values import Hello, StateReport, UpdateKind
from support.desired import desired, reported
from support.link import Holder, Told, acked, end_session, linked
from support.serving import serving, target, until

LATER = b"\xa2\x1f\x05later"
"""Field 500, a text."""
ONE, TWO, THREE = desired("one"), desired("two"), desired("three")


@pytest.fixture
def later_control_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have modules a field more, which their hash covers."""

    def upsert(module: DesiredModule) -> bytes:
        message = convert.desired_to_message(module)
        message._unknown_fields = LATER
        update = pb.Update(upserts=[message])
        update._unknown_fields = LATER
        return bytes(update)

    def content_hash(modules: Iterable[DesiredModule]) -> bytes:
        return hashlib.sha256(LATER + values.content_hash(modules)).digest()

    monkeypatch.setattr(wire, "upsert", upsert)
    monkeypatch.setattr(fragments, "content_hash", content_hash)


@pytest.fixture
def later_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what the daemon says a field more, and its Report a message more."""
    greet, state, ack = messages.watch_request, messages.state_report, messages.ack

    def watch_request(hello: Hello, *, instance: str, version: str) -> pb.WatchRequest:
        request = greet(hello, instance=instance, version=version)
        request.protocol_version += 1
        request._unknown_fields = LATER
        return request

    def state_report(report: StateReport) -> pb.StateReport:
        message = state(report)
        for part in (message, *message.modules):
            part._unknown_fields = LATER
        return message

    def unheard_of(*_: object) -> pb.ReportMessage:
        message = pb.ReportMessage()
        message._unknown_fields = LATER
        return message

    monkeypatch.setattr(messages, "watch_request", watch_request)
    monkeypatch.setattr(messages, "state_report", state_report)
    monkeypatch.setattr(messages, "ack", unheard_of)
    assert ack is not messages.ack


@pytest.mark.usefixtures("later_control_plane")
async def test_daemon_goes_on_without_what_only_a_later_control_plane_knows(tmp_path: Path) -> None:
    holder, told = Holder(), Told()
    async with serving(tmp_path) as replica:
        files = replica.node("a", target(1, ONE))
        async with linked(replica.port, files, holder, told=told):
            await until(lambda: acked(replica) == ("nms-1", 1))
            replica.publish("a", target(2, ONE, TWO))
            await until(lambda: acked(replica) == ("nms-1", 2))
            replica.publish("a", target(3, TWO))
            await until(lambda: acked(replica) == ("nms-1", 3))
            # What it has journaled is not the control plane's whole state: that comes anew.
            end_session(replica)
            await until(lambda: len(holder.updates) == 4)
            replica.publish("a", target(4, TWO, THREE))
            await until(lambda: acked(replica) == ("nms-1", 4))
    snapshot, diff = UpdateKind.SNAPSHOT, UpdateKind.DIFF
    assert holder.kinds() == [snapshot, diff, diff, snapshot, diff]
    assert holder.desired is not None
    assert list(holder.desired.modules.values()) == [TWO, THREE]


@pytest.mark.usefixtures("later_daemon")
async def test_control_plane_goes_on_without_what_only_a_later_daemon_says(tmp_path: Path) -> None:
    holder, told = Holder(), Told()
    async with serving(tmp_path) as replica:
        files = replica.node("a", target(1, ONE))
        async with linked(replica.port, files, holder, told=told):
            await until(lambda: holder.holds(1, ONE))
            holder.reports.put(
                StateReport(
                    sequence=1, uid="nms-1", observed_generation=1, modules=(reported("one"),)
                )
            )
            await until(lambda: replica.world.reports[-1][1].sequence == 1)
            replica.publish("a", target(2, ONE, TWO))
            await until(lambda: holder.holds(2, ONE, TWO))
            assert told.connected == [True]
        assert replica.world.reports[-1][1].modules == (reported("one"),)


async def test_damaged_state_of_the_same_release_is_sent_anew(tmp_path: Path) -> None:
    """What is not checked for a later release is checked for our own."""
    holder = Holder()
    async with serving(tmp_path) as replica:
        files = replica.node("a", target(1, ONE))
        async with linked(replica.port, files, holder):
            await until(lambda: acked(replica) == ("nms-1", 1))
            assert holder.desired is not None
            holder.desired = type(holder.desired)(uid="nms-1", generation=1, modules={TWO.ref: TWO})
            replica.publish("a", target(2, ONE, THREE))
            await until(lambda: holder.holds(2, ONE, THREE))
    assert holder.kinds() == [UpdateKind.SNAPSHOT, UpdateKind.DIFF, UpdateKind.SNAPSHOT]
