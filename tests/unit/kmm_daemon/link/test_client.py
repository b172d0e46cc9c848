import asyncio
import dataclasses
import logging
import random
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from kmm_common.api.names import Reason
from kmm_common.backoff import Backoff
from kmm_common.errors import TransientError
from kmm_common.logs import fields_of
from kmm_common.tls import ServerTls, TlsFiles
from kmm_daemon.link.client import STABLE_SECONDS, reconnect_backoff
from kmm_daemon.values import Accepted, DesiredUpdate, NeedsSnapshot, StateReport, UpdateKind
from kmm_sandbox.ports import KeptPorts
from support.certificates import Certificates
from support.desired import desired, reported
from support.link import Holder, Told, acked, end_session, linked
from support.serving import DEADLINE, Serving, serving, target, until
from support.steppedclock import SteppedClock
from support.virtualclock import VirtualClock

ONE, TWO, PRIVATE = desired("one"), desired("two"), desired("private", secret="pull")
LOST = desired("lost", secret="gone")
SEED = 1


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path / "one") as replica:
        yield replica


async def test_daemon_follows_the_desired_state_and_acknowledges_it(replica: Serving) -> None:
    files, holder, told = replica.node("a", target(1, ONE)), Holder(), Told()
    async with linked(replica.port, files, holder, told=told):
        await until(lambda: acked(replica) == ("nms-1", 1))
        replica.publish("a", target(2, ONE, TWO))
        await until(lambda: acked(replica) == ("nms-1", 2))
        replica.publish("a", target(3, TWO))
        await until(lambda: acked(replica) == ("nms-1", 3))
        replica.publish("a", target(1, uid="nms-2"))
        await until(lambda: acked(replica) == ("nms-2", 1))
        assert told.connected == [True]
    assert holder.holds(1, uid="nms-2")
    kinds = [UpdateKind.SNAPSHOT, UpdateKind.DIFF, UpdateKind.DIFF, UpdateKind.SNAPSHOT]
    assert holder.kinds() == kinds
    assert told.connected == [True, False]


async def test_reports_arrive_newest_first_of_all(replica: Serving) -> None:
    files, holder = replica.node("a", target(1, ONE)), Holder()
    async with linked(replica.port, files, holder):
        await until(lambda: acked(replica) == ("nms-1", 1))
        modules = (reported("one"),)
        for sequence in (1, 2, 3):
            newest = StateReport(
                sequence=sequence, uid="nms-1", observed_generation=1, modules=modules
            )
            holder.reports.put(newest)
        await until(lambda: replica.world.reports[-1][1].sequence == 3)
        node, said = replica.world.reports[-1]
        assert (node, said.modules, said.observed_generation) == ("a", modules, 1)


async def test_reconnect_tells_all_again_and_gets_nothing_anew(replica: Serving) -> None:
    files, holder = replica.node("a", target(1, ONE)), Holder()
    async with linked(replica.port, files, holder):
        await until(lambda: acked(replica) == ("nms-1", 1))
        holder.reports.put(StateReport(sequence=7, modules=(reported("one"),)))
        await until(lambda: replica.world.reports[-1][1].sequence == 7)
        replica.world.reports.clear()
        first = replica.sessions.all()[0].id
        end_session(replica)
        await until(lambda: replica.sessions.all() and replica.sessions.all()[0].id != first)
        await until(lambda: acked(replica) == ("nms-1", 1))
    assert holder.kinds() == [UpdateKind.SNAPSHOT, UpdateKind.UNCHANGED]
    assert replica.world.reports[0][1].modules == (reported("one"),)


async def test_daemon_finds_a_control_plane_that_comes_back(tmp_path: Path) -> None:
    holder, told = Holder(), Told()
    async with serving(tmp_path / "x") as probe:
        port = probe.port
    files = TlsFiles(cert=tmp_path / "tls.crt", key=tmp_path / "tls.key", ca=tmp_path / "ca.crt")
    async with linked(port, files, holder, told=told):
        await asyncio.sleep(0.1)
        async with serving(tmp_path / "y", port=port) as replica:
            # Certificates that were not there at first are read anew at every attempt.
            issued = replica.node("a", target(1, ONE))
            for source, place in ((issued.cert, files.cert), (issued.key, files.key)):
                shutil.copy(source, place)
            shutil.copy(issued.ca, files.ca)
            await until(lambda: acked(replica) == ("nms-1", 1))
    assert True in told.connected


async def test_update_that_cannot_be_used_is_followed_by_one_snapshot(replica: Serving) -> None:
    files, holder = replica.node("a", target(1, ONE)), Holder()
    async with linked(replica.port, files, holder):
        await until(lambda: acked(replica) == ("nms-1", 1))
        holder.spoilt = ["content hash differs"]
        replica.publish("a", target(2, ONE, TWO))
        await until(lambda: acked(replica) == ("nms-1", 2))
        assert holder.kinds() == [UpdateKind.SNAPSHOT, UpdateKind.DIFF, UpdateKind.SNAPSHOT]
        holder.spoilt = ["differs", "differs still"]
        replica.publish("a", target(3, ONE))
        await until(lambda: replica.sessions.all()[0].progress.refused == ("nms-1", 3))
        assert holder.kinds()[3:] == [UpdateKind.DIFF, UpdateKind.SNAPSHOT]
        replica.publish("a", target(4, TWO))
        await until(lambda: acked(replica) == ("nms-1", 4))
    assert holder.holds(4, TWO)


async def test_update_that_cannot_be_journaled_is_not_acknowledged_and_comes_again(
    replica: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "kmm_daemon.link.client")
    files, holder = replica.node("a", target(1, ONE)), Holder()
    holder.disk_full = True
    async with linked(replica.port, files, holder):
        await until(lambda: len(holder.updates) >= 3)
        assert acked(replica) == ("", 0)
        holder.disk_full = False
        await until(lambda: acked(replica) == ("nms-1", 1))
    problems = [fields_of(one)["error"] for one in caplog.records]
    assert "cannot write the journal; make room" in problems


async def test_refusal_is_logged_once_with_its_reason(
    replica: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kmm_daemon.link.client")
    files, holder = replica.node("a", target(1, ONE)), Holder()
    replica.ready = False
    async with linked(replica.port, files, holder):
        await asyncio.sleep(0.3)
        lines = [one for one in caplog.records if one.name == "kmm_daemon.link.client"]
        assert [one.message for one in lines] == ["no session with the control plane"]
        assert fields_of(lines[0])["error"].startswith("UNAVAILABLE: this replica is not serving")
        replica.ready = True
        await until(lambda: acked(replica) == ("nms-1", 1))
    lines = [one for one in caplog.records if one.name == "kmm_daemon.link.client"]
    assert lines[-1].message == "session with the control plane"


async def test_reason_of_an_end_reaches_the_daemons_log(
    replica: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kmm_daemon.link.client")
    files, holder = replica.node("a", target(1, ONE)), Holder()
    async with linked(replica.port, files, holder):
        for _ in range(5):
            await until(lambda: acked(replica) == ("nms-1", 1))
            caplog.clear()
            end_session(replica)
            await until(lambda: any("no session" in line for line in caplog.messages))
            ends = [one for one in caplog.records if one.message.startswith("no session")]
            assert [fields_of(one)["error"] for one in ends] == [
                "UNAVAILABLE: the session is old; connect again"
            ]
            await until(lambda: replica.sessions.all())


async def test_credentials_come_over_the_session(replica: Serving) -> None:
    files, holder = replica.node("a", target(1, ONE, PRIVATE, LOST)), Holder()
    config = b'{"auths": {"registry.example": {"username": "u", "password": "p"}}}'
    replica.world.secrets["default", "pull"] = {".dockerconfigjson": config}
    async with linked(replica.port, files, holder) as client:
        with pytest.raises(TransientError, match="no session with the control plane"):
            await client.fetch(PRIVATE.ref, False)
        await until(lambda: acked(replica) == ("nms-1", 1))
        (credential,) = await client.fetch(PRIVATE.ref, False)
        assert (credential.registry, credential.username) == ("registry.example", "u")
        assert credential.password == "p"
        assert "'p'" not in repr(credential)
        with pytest.raises(TransientError) as caught:
            await client.fetch(ONE.ref, False)
        assert caught.value.reason == Reason.IMAGE_UNAUTHORIZED
        with pytest.raises(TransientError, match="default/gone does not exist") as caught:
            await client.fetch(LOST.ref, False)
        assert caught.value.reason == Reason.IMAGE_UNAUTHORIZED


async def only_problem(
    port: int, files: TlsFiles, caplog: pytest.LogCaptureFixture, *, server_name: str = "localhost"
) -> str:
    """Return why the link says that there is no session; it says so once in many attempts."""
    caplog.set_level(logging.WARNING, "kmm_daemon")
    told, holder = Told(), Holder()
    async with linked(port, files, holder, told=told, server_name=server_name):
        await until(lambda: len(told.connected) >= 5)
    lines = [one for one in caplog.records if one.name.startswith("kmm_daemon")]
    assert [one.message for one in lines] == ["no session with the control plane"]
    assert True not in told.connected
    assert holder.updates == []
    return str(fields_of(lines[0])["error"])


async def test_server_with_a_strangers_certificate_is_not_spoken_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "theirs") as replica:
        replica.node("a", target(1, ONE))
        ours = Certificates(tmp_path / "ours").daemon("a")
        problem = await only_problem(replica.port, ours, caplog)
        assert f"the control plane's certificate is not of an authority in {ours.ca}" in problem
        assert "put the authority of the control plane's tls.cert there" in problem
        assert replica.world.reports == []


async def test_server_of_another_name_is_not_spoken_to(
    replica: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    files = replica.node("a", target(1, ONE))
    problem = await only_problem(replica.port, files, caplog, server_name="elsewhere.example")
    assert "certificate does not name elsewhere.example: set server_name" in problem


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (timedelta(days=-60), "has expired by this node's clock: renew its tls.cert, or set"),
        (timedelta(days=1), "is not valid yet by this node's clock: set the clock"),
    ],
    ids=["expired", "not yet valid"],
)
async def test_server_with_a_certificate_of_another_time_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, offset: timedelta, words: str
) -> None:
    issuers_clock = SteppedClock()
    certificates = Certificates(tmp_path, clock=issuers_clock)
    files = certificates.daemon("a")
    issuers_clock.offset = offset
    async with serving(tmp_path, certificates=certificates) as replica:
        problem = await only_problem(replica.port, files, caplog)
    assert f"the certificate of the control plane at 127.0.0.1:{replica.port} {words}" in problem


async def test_daemon_of_another_authority_is_told_which_file_is_refused(
    replica: Serving, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = replica.node("a", target(1, ONE))
    files = dataclasses.replace(Certificates(tmp_path / "x").daemon("a"), ca=ours.ca)
    problem = await only_problem(replica.port, files, caplog)
    assert f"refuses this daemon's certificate {files.cert}: have it issued by" in problem
    assert "the control plane's tls.ca" in problem
    assert "'peer refused'" in problem


@contextmanager
def alerting_server(files: TlsFiles) -> Iterator[int]:
    """Speak TLS as others than asyncio do: a handshake that fails ends with an alert."""
    context = ServerTls(files).context
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, connection.dup() as plain:
                    with pytest.raises(ssl.SSLCertVerificationError):
                        context.wrap_socket(connection, server_side=True)
                    # Closed with something unread, the connection could lose the alert.
                    plain.shutdown(socket.SHUT_WR)
                    while plain.recv(4096):
                        pass

        serving = threads.submit(serve)
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.result(DEADLINE)


async def test_alert_of_the_control_plane_is_told_in_its_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = Certificates(tmp_path / "theirs").server()
    files = dataclasses.replace(Certificates(tmp_path / "ours").daemon("a"), ca=theirs.ca)
    with alerting_server(theirs) as port:
        problem = await only_problem(port, files, caplog)
    assert f"refused this daemon's certificate {files.cert}: unknown ca: have it issued" in problem


@asynccontextmanager
async def other_server(context: ssl.SSLContext | None) -> AsyncIterator[int]:
    """Answer everything as a web server does."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_port_without_tls_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = Certificates(tmp_path).daemon("a")
    async with other_server(None) as port:
        problem = await only_problem(port, files, caplog)
    assert problem.startswith(f"no TLS 1.3 at 127.0.0.1:{port} ")
    assert "set server to" in problem


async def test_server_that_speaks_something_else_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = Certificates(tmp_path)
    async with other_server(ServerTls(certificates.server()).context) as port:
        problem = await only_problem(port, certificates.daemon("a"), caplog)
    assert problem.startswith(f"127.0.0.1:{port} does not speak the control plane's protocol")
    assert "set server to" in problem


async def test_port_where_nobody_listens_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with KeptPorts() as ports:
        port = ports.port()
        problem = await only_problem(port, Certificates(tmp_path).daemon("a"), caplog)
    assert problem.startswith(f"no connection to 127.0.0.1:{port}: ")
    assert "check server" in problem


@asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[int, list[int]]]:
    """Accept connections and say nothing."""
    accepted_at: list[int] = []

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted_at.append(1)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(ignore, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], accepted_at


async def test_cancelling_ends_the_link_at_once_whatever_it_waits_for(tmp_path: Path) -> None:
    files = Certificates(tmp_path).daemon("a")
    async with silent_server() as (port, accepted_at):
        async with linked(port, files, Holder()):
            await until(lambda: accepted_at)
        async with asyncio.timeout(DEADLINE):
            await asyncio.sleep(0)


class FailsWhenCancelled(Holder):
    """An agent in which something fails just when the daemon is told to end."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def accept(self, update: DesiredUpdate) -> Accepted | NeedsSnapshot:
        self.asked.set()
        never: asyncio.Future[Accepted | NeedsSnapshot] = asyncio.Future()
        try:
            return await never
        except asyncio.CancelledError:
            raise TransientError("cannot write the journal; make room") from None


async def test_link_ends_when_told_to_though_its_session_fails_meanwhile(replica: Serving) -> None:
    holder = FailsWhenCancelled()
    async with (
        asyncio.timeout(DEADLINE),
        linked(replica.port, replica.node("a", target(1, ONE)), holder),
    ):
        await holder.asked.wait()


async def test_attempts_are_spread_ever_wider_until_a_session_was_stable(
    replica: Serving,
) -> None:
    clock, attempts = VirtualClock(), list[int]()

    class Delays(Backoff):
        def delay(self, attempt: int) -> float:
            attempts.append(attempt)
            return 1.0

    async def next_attempt(*, expected: list[int]) -> None:
        await until(lambda: len(attempts) == len(expected))
        assert attempts == expected
        await clock.advance(1.0)

    files, holder = replica.node("a", target(1, ONE)), Holder()
    replica.ready = False
    async with linked(replica.port, files, holder, clock=clock, backoff=Delays(1.0, 60.0)):
        await next_attempt(expected=[1])
        await next_attempt(expected=[1, 2])
        await until(lambda: len(attempts) == 3)
        replica.ready = True
        await next_attempt(expected=[1, 2, 3])
        await until(lambda: acked(replica) == ("nms-1", 1))
        end_session(replica)
        await next_attempt(expected=[1, 2, 3, 4])
        await until(lambda: acked(replica) == ("nms-1", 1))
        await clock.advance(STABLE_SECONDS)
        end_session(replica)
        await next_attempt(expected=[1, 2, 3, 4, 1])


async def test_hour_without_a_control_plane_is_an_attempt_in_half_a_minute_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kmm_daemon")
    clock, delays = VirtualClock(), list[float]()

    class Noted(Backoff):
        def delay(self, attempt: int) -> float:
            delays.append(super().delay(attempt))
            return delays[-1]

    product = reconnect_backoff()
    backoff = Noted(product.base, product.cap, product.jitter, random.Random(SEED))  # noqa: S311
    files = Certificates(tmp_path).daemon("a")
    with KeptPorts() as ports:
        async with linked(ports.port(), files, Holder(), clock=clock, backoff=backoff):
            attempts = 0
            while clock.monotonic() < 3600.0:
                attempts += 1
                await until(lambda due=attempts: len(delays) == due and clock.sleeping())
                await clock.advance(delays[-1])
    assert 3600.0 / product.cap <= attempts <= 2 * 3600.0 / (product.cap / 2)
    lines = [one.message for one in caplog.records if one.name.startswith("kmm_daemon")]
    assert lines == ["no session with the control plane"]


def test_first_attempts_come_quickly_and_all_of_them_within_a_minute() -> None:
    delays = [reconnect_backoff().delay(attempt) for attempt in range(1, 20) for _ in range(50)]
    assert max(delays[:50]) <= 1.0
    assert max(delays) <= 60.0
    assert min(delays[-50:]) < 30.0, "full jitter"
