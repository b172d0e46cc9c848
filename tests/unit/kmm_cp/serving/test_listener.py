import asyncio
import contextlib
import dataclasses
import logging
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from kmm_common import tls
from kmm_common.logs import fields_of
from kmm_common.tls import TlsFiles, client_context
from kmm_common.wire import http2
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_cp.serving import crowd
from kmm_cp.serving.listener import IDLE_SECONDS
from kmm_cp.serving.ports import PodFacts, Refusal
from kmm_cp.serving.rarely import QUIET_SECONDS
from kmm_cp.serving.service import Limits
from support.certificates import Certificates, pod_of
from support.desired import desired
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
from support.steppedclock import SteppedClock
from support.virtualclock import START, VirtualClock, rest

ONE, TWO = desired("one"), desired("two")


@asynccontextmanager
async def undisturbed(replica: Serving) -> AsyncIterator[None]:
    """Check that a session that was there before gets what comes after."""
    files = replica.node("honest", target(1, ONE))
    async with dialled(replica.port, files) as channel, watch(channel) as stream:
        await stream.send_message(request(), end=True)
        await next_update(stream)
        yield
        replica.publish("honest", target(2, ONE, TWO))
        assert (await next_update(stream)).generation == 2
        await stream.cancel()


@asynccontextmanager
async def raw(
    port: int, context: ssl.SSLContext | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost" if context else None
    )
    try:
        yield reader, writer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def ended(reader: asyncio.StreamReader) -> None:
    """Wait until the server has closed the connection."""
    async with asyncio.timeout(DEADLINE):
        try:
            while await reader.read(65536):
                pass
        except OSError:
            return


def warned(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return all warnings but those of asyncio's debug mode, which are about a slow machine."""
    slow = "Executing "
    return [record for record in caplog.records if not record.message.startswith(slow)]


async def only_line(replica: Serving, caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """Return the fields of the one line that a refused peer has left; it is counted once, too."""
    await until(lambda: warned(caplog))
    (record,) = warned(caplog)
    assert (record.message, record.levelname) == ("peer refused", "WARNING")
    fields = fields_of(record)
    assert replica.world.refusals == [fields["reason"]]
    return fields


@pytest.fixture(autouse=True)
def warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


@pytest.mark.parametrize(
    ("content", "refusal", "error"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", Refusal.NO_TLS, "TLS handshake: http request"),
        (b"\x00" * 5000, Refusal.NO_TLS, "TLS handshake: wrong version number"),
        (b"\x16\x03\x01", Refusal.HANDSHAKE_FAILED, "it ended the connection in the TLS handshake"),
    ],
    ids=["http", "zeros", "half a record"],
)
async def test_garbage_before_tls_disturbs_nobody_and_leaves_one_line(
    replica: Serving,
    caplog: pytest.LogCaptureFixture,
    content: bytes,
    refusal: Refusal,
    error: str,
) -> None:
    async with undisturbed(replica), raw(replica.port, None) as (reader, writer):
        host, port = writer.get_extra_info("sockname")
        writer.write(content)
        writer.write_eof()
        await ended(reader)
        fields = await only_line(replica, caplog)
        assert fields["peer"] == f"{host}:{port}"
        assert (fields["reason"], fields["error"]) == (refusal, error)
        assert "control plane's" in fields["remedy"]


async def test_peer_that_comes_back_is_counted_and_told_once_in_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = VirtualClock()
    async with serving(tmp_path, clock=clock) as replica:

        async def knock() -> None:
            async with raw(replica.port, None) as (reader, writer):
                writer.write(b"garbage" * 100)
                await ended(reader)

        for _ in range(5):
            await knock()
        assert replica.world.refusals == [Refusal.NO_TLS] * 5
        assert [record.message for record in warned(caplog)] == ["peer refused"]
        await clock.advance(QUIET_SECONDS)
        await knock()
        assert [record.message for record in warned(caplog)] == ["peer refused"] * 2


async def test_peer_that_says_nothing_is_given_up(
    replica: Serving, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.2)
    async with undisturbed(replica), raw(replica.port, None) as (reader, _):
        await ended(reader)
        fields = await only_line(replica, caplog)
        assert fields["reason"] == Refusal.HANDSHAKE_FAILED
        assert "longer than 0.2 seconds" in fields["error"]


async def test_drain_gives_up_handshakes_that_are_not_done(
    replica: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    async with raw(replica.port, None) as (reader, writer):
        writer.write(b"\x16\x03\x01")
        await rest()
        await replica.listener.drain(0)
        await ended(reader)
    assert warned(caplog) == []


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 2**16,
        # A SETTINGS frame, then HEADERS whose block is no HPACK.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x03\x01\x04\x00\x00\x00\x01\xff\xff\xff",
    ],
    ids=["http1", "frame", "hpack"],
)
async def test_garbage_inside_tls_disturbs_nobody_and_leaves_one_line(
    replica: Serving, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    context = client_context(replica.node("rogue"))
    async with undisturbed(replica), raw(replica.port, context) as (reader, writer):
        host, port = writer.get_extra_info("sockname")
        writer.write(content)
        await ended(reader)
        fields = await only_line(replica, caplog)
        assert (fields["peer"], fields["reason"]) == (f"{host}:{port}", Refusal.NO_HTTP2)
        assert fields["error"]
        assert "only daemons" in fields["remedy"]


async def test_frame_that_is_too_large_leaves_one_line(
    replica: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    context = client_context(replica.node("rogue"))
    async with undisturbed(replica), raw(replica.port, context) as (reader, writer):
        settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
        frame = b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + b"x" * 100_000
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + frame)
        await ended(reader)
        fields = await only_line(replica, caplog)
        assert fields["reason"] == Refusal.NO_HTTP2
        assert "frame of more than" in fields["error"]


async def test_flood_of_streams_that_are_reset_at_once_ends_the_connection(
    replica: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    files = replica.node("rogue", target(1, ONE))
    async with undisturbed(replica), dialled(replica.port, files) as channel:
        await channel.connect()
        assert channel._protocol is not None
        h2, transport = (
            channel._protocol.connection._connection,
            channel._protocol.connection._transport,
        )
        for _ in range(int(http2.STREAMS_AT_ONCE) + 50):
            stream = h2.get_next_available_stream_id()
            h2.send_headers(stream, [(":method", "POST"), (":path", "/"), (":scheme", "https")])
            h2.reset_stream(stream)
        transport.write(h2.data_to_send())
        fields = await only_line(replica, caplog)
        assert (fields["reason"], fields["error"]) == (
            Refusal.TOO_MANY_STREAMS,
            "more than 10 a second",
        )
        await until(lambda: transport.is_closing())


async def test_host_with_too_many_handshakes_is_hung_up_on_at_once(
    replica: Serving, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with undisturbed(replica):
        monkeypatch.setattr(crowd, "HANDSHAKES_PER_HOST", 1)
        async with raw(replica.port, None), raw(replica.port, None) as (reader, _):
            await ended(reader)
            fields = await only_line(replica, caplog)
            assert fields["reason"] == Refusal.CROWDED
            assert fields["error"] == "1 others of its host have no TLS yet"
            assert "behind a NAT" in fields["remedy"]


async def test_pod_with_too_many_connections_loses_its_oldest_idle_one(replica: Serving) -> None:
    files = replica.node("a", target(1, ONE))
    context = client_context(files)
    async with dialled(replica.port, files) as channel, watch(channel) as stream:
        await stream.send_message(request(), end=True)
        await next_update(stream)
        async with AsyncExitStack() as others:
            readers = [
                (await others.enter_async_context(raw(replica.port, context)))[0]
                for _ in range(crowd.CONNECTIONS_PER_POD)
            ]
            await ended(readers[0])
            assert not any(reader.at_eof() for reader in readers[1:])
            replica.publish("a", target(2, ONE, TWO))
            assert (await next_update(stream)).generation == 2
        await stream.cancel()


async def test_headers_without_end_end_the_connection(
    replica: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    def frame(kind: int, content: bytes) -> bytes:
        return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, 0, 1) + content

    context = client_context(replica.node("rogue"))
    async with undisturbed(replica), raw(replica.port, context) as (reader, writer):
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        headers, continuation = 1, 9
        field = b"\x00\x01a\x7f\x81\x7e" + b"x" * 382
        writer.write(frame(headers, field))
        with contextlib.suppress(OSError):
            for _ in range(1000):
                writer.write(frame(continuation, field * 40))
                await writer.drain()
        await ended(reader)
        fields = await only_line(replica, caplog)
        assert fields["reason"] == Refusal.NO_HTTP2


async def test_unknown_frame_is_ignored(replica: Serving) -> None:
    files = replica.node("a", target(1, ONE))
    async with dialled(replica.port, files) as channel, watch(channel) as stream:
        await channel.connect()
        assert channel._protocol is not None
        channel._protocol.connection._transport.write(b"\x00\x00\x01\xee\x00\x00\x00\x00\x00x")
        await stream.send_message(request(), end=True)
        assert (await next_update(stream)).generation == 1
        await stream.cancel()


async def test_length_of_one_gib_is_refused_before_anything_is_kept(
    replica: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    files = replica.node("rogue", target(1, ONE))
    async with undisturbed(replica), dialled(replica.port, files) as channel:
        with pytest.raises(GRPCError) as caught:
            async with asyncio.timeout(DEADLINE), watch(channel) as stream:
                await stream.send_request()
                await stream._stream.send_data(b"\x00" + struct.pack(">I", 2**30) + b"x" * 5000)
                await stream.recv_message()
        assert caught.value.status is Status.RESOURCE_EXHAUSTED
        async with watch(channel) as stream:
            await stream.send_message(request(), end=True)
            assert (await next_update(stream)).generation == 1
            await stream.cancel()
        fields = await only_line(replica, caplog)
        assert fields["reason"] == Refusal.MESSAGE_TOO_LARGE
        assert fields["error"] == "message of 1073741824 bytes; at most 4194304 are accepted"
        assert "only daemons" in fields["remedy"]


async def test_client_without_certificate_is_refused(
    replica: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.create_default_context(cafile=str(replica.certificates.server().ca))
    context.set_alpn_protocols(["h2"])
    async with undisturbed(replica), raw(replica.port, context) as (reader, _):
        await ended(reader)
        fields = await only_line(replica, caplog)
        assert fields["reason"] == Refusal.NO_CERTIFICATE
        assert "tls.ca" in fields["remedy"] and "tls.cert" in fields["remedy"]


async def test_client_of_another_authority_is_refused(
    replica: Serving, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    stranger = Certificates(tmp_path / "strangers").daemon("honest")
    files = dataclasses.replace(stranger, ca=replica.certificates.server().ca)
    async with undisturbed(replica), raw(replica.port, client_context(files)) as (reader, _):
        await ended(reader)
        fields = await only_line(replica, caplog)
        assert fields["reason"] == Refusal.UNTRUSTED_CERTIFICATE
        assert fields["error"].startswith("its certificate does not hold: ")
        assert "tls.ca" in fields["remedy"] and "tls.cert" in fields["remedy"]


@pytest.mark.parametrize(
    ("offset", "refusal", "remedy"),
    [
        (timedelta(days=-60), Refusal.CERTIFICATE_EXPIRED, "renew the daemon's tls.cert, or set"),
        (timedelta(days=1), Refusal.CERTIFICATE_NOT_YET_VALID, "set the clock of this machine"),
    ],
    ids=["expired", "not yet valid"],
)
async def test_certificate_of_another_time_is_refused(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    offset: timedelta,
    refusal: Refusal,
    remedy: str,
) -> None:
    issuers_clock = SteppedClock()
    certificates = Certificates(tmp_path, clock=issuers_clock)
    async with serving(tmp_path, certificates=certificates) as replica, undisturbed(replica):
        issuers_clock.offset = offset
        context = client_context(certificates.daemon("a"))
        async with raw(replica.port, context) as (reader, _):
            await ended(reader)
        fields = await only_line(replica, caplog)
    assert fields["reason"] == refusal
    assert fields["remedy"].startswith(remedy)


async def test_client_that_does_not_trust_us_is_told_of(
    replica: Serving, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    context = client_context(Certificates(tmp_path / "strangers").daemon("honest"))
    async with undisturbed(replica):
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(
                "127.0.0.1", replica.port, ssl=context, server_hostname="localhost"
            )
        fields = await only_line(replica, caplog)
        assert fields["reason"] == Refusal.HANDSHAKE_FAILED
        assert "its tls.ca must hold the authority" in fields["remedy"]


async def test_broken_report_ends_only_its_own_session(replica: Serving) -> None:
    files = replica.node("rogue", target(1, ONE))
    async with (
        undisturbed(replica),
        dialled(replica.port, files) as channel,
        watch(channel) as stream,
    ):
        await stream.send_message(request(), end=True)
        session_id = (await next_update(stream)).session_id
        with pytest.raises(GRPCError) as caught:
            async with asyncio.timeout(DEADLINE), report(channel) as reports:
                hello = pb.ReportHello(session_id=session_id)
                await reports.send_message(pb.ReportMessage(hello=hello))
                await reports._stream.send_data(b"\x00\x00\x00\x00\x02\x0b\x0b")
                await reports.recv_message()
        assert caught.value.status is Status.INVALID_ARGUMENT
        await stream.cancel()


async def test_slow_daemon_loses_its_session_and_costs_nobody_else(tmp_path: Path) -> None:
    async with serving(tmp_path, send_seconds=0.3) as replica:
        files = replica.node("slow", target(1, ONE))
        async with undisturbed(replica), dialled(replica.port, files) as channel:
            with pytest.raises(StreamTerminatedError):
                async with watch(channel) as stream:
                    await stream.send_message(request(), end=True)
                    await next_update(stream)
                    assert channel._protocol is not None
                    transport = channel._protocol.connection._transport
                    transport.pause_reading()
                    for generation in range(2, 20):
                        big = desired("one", parameters=(str(generation) * 10**6,))
                        replica.publish("slow", target(generation, big))
                        await asyncio.sleep(0)
                    await until(lambda: "slow" not in replica.sessions.nodes())
                    transport.resume_reading()
                    async with asyncio.timeout(DEADLINE):
                        while await stream.recv_message():
                            pass


async def test_peer_that_answers_no_ping_loses_its_session(tmp_path: Path) -> None:
    async with serving(tmp_path, keepalive=0.2) as replica:
        files = replica.node("dead", target(1, ONE))
        async with dialled(replica.port, files) as channel:
            with pytest.raises(StreamTerminatedError):
                async with watch(channel) as stream:
                    await stream.send_message(request(), end=True)
                    await next_update(stream)
                    assert channel._protocol is not None
                    transport = channel._protocol.connection._transport
                    await asyncio.sleep(1.0)
                    assert "dead" in replica.sessions.nodes(), "pings are answered"
                    transport.pause_reading()
                    await until(lambda: "dead" not in replica.sessions.nodes())
                    transport.resume_reading()
                    async with asyncio.timeout(DEADLINE):
                        await stream.recv_message()


async def test_drain_ends_sessions_with_a_reason_and_closes_the_port(tmp_path: Path) -> None:
    async with serving(tmp_path) as replica:
        files = replica.node("a", target(1, ONE))
        async with dialled(replica.port, files) as channel:
            with pytest.raises(GRPCError) as caught:
                async with watch(channel) as stream:
                    await stream.send_message(request(), end=True)
                    await next_update(stream)
                    drain = asyncio.create_task(replica.listener.drain(0))
                    await stream.recv_message()
                    await stream.recv_trailing_metadata()
            assert caught.value.status is Status.UNAVAILABLE
            assert "going away" in (caught.value.message or "")
            await drain
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", replica.port)


async def test_old_session_is_ended_so_that_daemons_spread_again(tmp_path: Path) -> None:
    clock = VirtualClock()
    limits = Limits(age=3600.0, age_jitter=0.0)
    async with serving(tmp_path, clock=clock, limits=limits) as replica:
        error = await ended_after(replica, clock, 3599.0, 1.0)
        assert (error.status, error.message) == (
            Status.UNAVAILABLE,
            "the session is old; connect again",
        )


@pytest.mark.parametrize(
    ("left", "status"),
    [(facts("a", deleting=True), Status.PERMISSION_DENIED), (None, Status.UNAVAILABLE)],
    ids=["going", "gone"],
)
async def test_session_ends_when_its_pod_goes(
    tmp_path: Path, left: PodFacts | None, status: Status
) -> None:
    clock = VirtualClock()
    async with serving(tmp_path, clock=clock) as replica:
        replica.node("a", target(1, ONE))
        pods = {} if left is None else {pod_of("a").name: left}
        error = await ended_after(replica, clock, 29.0, 1.0, pods=pods)
        assert error.status is status


async def test_session_ends_when_its_certificate_expires(tmp_path: Path) -> None:
    # The authority's certificates last 30 days from now; the virtual clock is set after that.
    clock = VirtualClock()
    await clock.advance(5 * 365 * 86400.0)
    async with serving(tmp_path, clock=clock) as replica:
        error = await ended_after(replica, clock)
        assert (error.status, "expired" in (error.message or "")) == (
            Status.PERMISSION_DENIED,
            True,
        )


async def test_session_ends_in_time_for_one_with_the_renewed_certificate(tmp_path: Path) -> None:
    """Nothing is refused and no event made: the daemon reads its files anew when it connects."""
    clock, certificates = VirtualClock(), Certificates(tmp_path)
    files = certificates.daemon("a")
    expiry = x509.load_pem_x509_certificate(files.cert.read_bytes()).not_valid_after_utc
    await clock.advance((expiry - START).total_seconds() - 3600.0)
    limits = Limits(age_jitter=0.0)
    async with serving(tmp_path, clock=clock, limits=limits, certificates=certificates) as replica:
        until_renewal = 3600.0 - limits.renewal
        error = await ended_after(replica, clock, until_renewal - 1.0, 3.0, files=files)
        assert (error.status, replica.world.refusals) == (Status.UNAVAILABLE, [])
        assert "connect with the renewed one" in (error.message or "")
        error = await ended_after(replica, clock, limits.renewal - 10.0, 10.0, files=files)
        assert error.status is Status.PERMISSION_DENIED
        assert replica.world.refusals == [Refusal.CERTIFICATE_EXPIRED]


async def ended_after(
    replica: Serving,
    clock: VirtualClock,
    *waits: float,
    pods: dict[str, PodFacts] | None = None,
    files: TlsFiles | None = None,
) -> GRPCError:
    """Return how a session ends; it must live until the last of the waits."""
    issued = replica.node("a", target(1, ONE))
    async with dialled(replica.port, files or issued) as channel:
        with pytest.raises(GRPCError) as caught:
            async with asyncio.timeout(DEADLINE), watch(channel) as stream:
                await stream.send_message(request(), end=True)
                if waits:
                    await next_update(stream)
                if pods is not None:
                    replica.world.pods = pods
                for seconds in waits:
                    assert "a" in replica.sessions.nodes()
                    await clock.advance(seconds)
                while await stream.recv_message():
                    pass
                await stream.recv_trailing_metadata()
    return caught.value


async def test_idle_connection_is_closed_and_one_with_a_session_is_not(tmp_path: Path) -> None:
    clock = VirtualClock()
    async with serving(tmp_path, clock=clock) as replica, asyncio.TaskGroup() as tasks:
        run = tasks.create_task(replica.listener.run())
        context = client_context(replica.node("idle"))
        async with undisturbed(replica), raw(replica.port, context) as (reader, _):
            await reader.read(1)
            await clock.advance(IDLE_SECONDS)
            assert not reader.at_eof()
            await clock.advance(IDLE_SECONDS)
            await ended(reader)
        run.cancel()


async def test_flood_of_reports_is_read_at_a_bounded_pace(tmp_path: Path) -> None:
    clock = VirtualClock()
    limits = Limits(reports_per_second=2.0, reports_burst=5.0)
    async with serving(tmp_path, clock=clock, limits=limits) as replica:
        files = replica.node("a", target(1, ONE))
        async with dialled(replica.port, files) as channel, watch(channel) as stream:
            await stream.send_message(request(), end=True)
            session_id = (await next_update(stream)).session_id
            async with report(channel) as reports:
                hello = pb.ReportHello(session_id=session_id)
                await reports.send_message(pb.ReportMessage(hello=hello))
                for sequence in range(1, 21):
                    state = pb.StateReport(sequence=sequence)
                    await reports.send_message(pb.ReportMessage(state=state))
                await until(lambda: len(replica.world.reports) >= 7)
                await rest()
                assert len(replica.world.reports) == 7, "the greeting's, the burst and one more"
                await clock.advance(1.0)
                assert len(replica.world.reports) == 9
                await reports.cancel()
            await stream.cancel()
