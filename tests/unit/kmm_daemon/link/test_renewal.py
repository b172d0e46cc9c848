"""When a daemon enrols, by a virtual clock; what it enrols with is a program that tests play."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kmm_common import volume
from kmm_common.backoff import Backoff
from kmm_common.errors import TransientError
from kmm_common.logs import fields_of
from kmm_common.tls import TlsFiles
from kmm_cp.serving.issue import BACKDATED, daemon_certificate, new_signer
from kmm_daemon.link.renewal import (
    JITTER,
    LOOK_SECONDS,
    SHARE,
    SPREAD_SECONDS,
    TRUSTED,
    Enrolling,
    Renewal,
    renew_at,
)
from support.link import Told
from support.virtualclock import VirtualClock

LASTS = timedelta(minutes=25)
LIFE = (LASTS + BACKDATED).total_seconds()
BACKOFF = Backoff(10.0, 40.0, 0.0)


@dataclass
class Node:
    """A node whose program enrols with an authority, unless it is told to fail."""

    directory: Path
    clock: VirtualClock = field(default_factory=VirtualClock)
    told: Told = field(default_factory=Told)
    problem: str = ""
    breaks: bool = False
    runs: int = 0
    counted: list[bool] = field(default_factory=list)
    issue: bool = True

    def __post_init__(self) -> None:
        self.signer = new_signer(self.clock.now(), timedelta(days=30))
        self.files.ca.parent.mkdir(parents=True)
        self.files.ca.write_text("one")

    @property
    def files(self) -> TlsFiles:
        tls = self.directory / "tls"
        ca = self.directory / "trusted" / "ca.crt"
        return TlsFiles(cert=tls / "tls.crt", key=tls / "tls.key", ca=ca)

    async def program(self, argv: Sequence[str]) -> str:
        self.runs += 1
        assert f"--token={self.directory / 'token'}" in argv
        if self.breaks:
            raise TransientError("cannot start it")
        if not self.problem and self.issue:
            self.publish()
        return self.problem

    def publish(self) -> None:
        now, key = self.clock.now(), self.signer.key.public_key()
        issued = daemon_certificate(
            self.signer, key, "spiffe://kmm.test", host="d.test", now=now, life=LASTS
        )
        new = {"tls.crt": issued, "tls.key": b"", TRUSTED: self.files.ca.read_bytes()}
        volume.publish(self.files.cert.parent, new)

    def enrolled(self, *, ok: bool) -> None:
        self.counted.append(ok)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Renewal]:
        enrolling = Enrolling(
            server="kmm-cp:8444",
            server_name="kmm-cp",
            token=self.directory / "token",
            files=self.files,
        )
        renewal = Renewal(
            enrolling,
            run=self.program,
            told=self.told,
            observer=self,
            clock=self.clock,
            backoff=BACKOFF,
        )
        task = asyncio.create_task(renewal.run())
        try:
            await self.clock.advance(0)
            yield renewal
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_renewal_is_at_a_share_of_the_life() -> None:
    begins = datetime(2026, 1, 1, tzinfo=UTC)
    assert renew_at((begins, begins + timedelta(hours=24)), 0.5) == begins + timedelta(hours=12)


async def test_daemon_without_a_certificate_enrols_at_once_and_then_at_two_thirds(
    node: Node,
) -> None:
    async with node.running() as renewal:
        assert (node.runs, renewal.enrolled.is_set()) == (1, True)
        await node.clock.advance(LIFE * (SHARE - JITTER) - BACKDATED.total_seconds() - 60.0)
        assert node.runs == 1
        await node.clock.advance(LIFE * 2 * JITTER + 120.0)
        assert node.runs == 2
    assert node.counted == [True, True]
    assert node.told.connected == [], "what the session is, others tell"


async def test_daemon_that_starts_again_keeps_its_certificate(node: Node) -> None:
    node.publish()
    async with node.running() as renewal:
        await node.clock.advance(300.0)
        assert (node.runs, renewal.enrolled.is_set()) == (0, True)


async def test_refusal_is_told_once_and_tried_again_ever_more_slowly(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.problem = "token: has expired; the kubelet renews it"
    async with node.running() as renewal:
        assert node.told.problem == f"not enrolled: {node.problem}"
        await node.clock.advance(10.0)
        await node.clock.advance(20.0)
        await node.clock.advance(40.0)
        assert (node.runs, renewal.enrolled.is_set()) == (4, False)
        told = [one for one in caplog.records if one.message == "not enrolled"]
        assert [fields_of(one)["error"] for one in told] == [node.problem]
        node.problem = ""
        await node.clock.advance(40.0)
        assert renewal.enrolled.is_set()
    assert node.counted == [False] * 4 + [True]


async def test_program_that_cannot_start_is_told(node: Node) -> None:
    node.breaks = True
    async with node.running():
        assert node.told.problem == "not enrolled: cannot start it"


async def test_certificate_that_cannot_be_renewed_stays_until_it_ends(node: Node) -> None:
    node.publish()
    async with node.running() as renewal:
        node.problem = "no answer"
        await node.clock.advance(LIFE * (SHARE + JITTER))
        assert node.runs > 1
        assert renewal.enrolled.is_set()
        assert node.told.connected == [], "there is still a session"


async def test_other_authorities_are_enrolled_with_soon_but_not_by_all_at_once(node: Node) -> None:
    node.publish()
    async with node.running():
        await node.clock.advance(LOOK_SECONDS)
        node.files.ca.write_text("one and two")
        await node.clock.advance(SPREAD_SECONDS + 2 * LOOK_SECONDS)
        assert node.runs == 1
        await node.clock.advance(120.0)
        assert node.runs == 1, "once for each change"
        node.files.ca.unlink()
        await node.clock.advance(120.0)
        assert node.runs == 1, "there is nothing to enrol with"


async def test_clock_beyond_what_certificates_are_valid_for_makes_no_haste(node: Node) -> None:
    """Each that comes has expired already by this node's clock."""
    node.publish()
    node.issue = False
    await node.clock.advance(LIFE + 3600.0)
    async with node.running():
        await node.clock.advance(600.0)
        assert node.runs <= 2 + 600.0 / BACKOFF.cap + 3
