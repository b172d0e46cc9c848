"""Wall clocks stepped under a session: only the validity of a certificate goes by them."""

import logging
from datetime import timedelta
from pathlib import Path

import pytest

from kmm_common.logs import fields_of
from kmm_cp.serving.ports import Refusal
from kmm_cp.serving.service import Limits
from kmm_daemon.values import UpdateKind
from kmm_sandbox.pki import LIFETIME
from support.desired import desired
from support.link import Holder, Told, acked, linked
from support.serving import serving, target, until
from support.steppedclock import SteppedClock

LOOKS_OFTEN = Limits(recheck=0.02)
"""At a session's pod and certificate."""
ONE = desired("one")
STEPS = [
    timedelta(minutes=5),
    timedelta(minutes=-5),
    timedelta(days=1),
    timedelta(days=-1),
    timedelta(),
]


async def test_stepped_clocks_end_no_session_and_delay_nothing(tmp_path: Path) -> None:
    clocks, holder, told = (SteppedClock(), SteppedClock()), Holder(), Told()
    async with serving(tmp_path, clock=clocks[0], limits=LOOKS_OFTEN) as replica:
        files = replica.node("a", target(1, ONE))
        async with linked(replica.port, files, holder, told=told, clock=clocks[1]):
            await until(lambda: acked(replica) == ("nms-1", 1))
            session = replica.sessions.all()[0].id
            for clock in clocks:
                for generation, offset in enumerate(STEPS, start=holder.updates[-1].generation + 1):
                    clock.offset = offset
                    replica.publish("a", target(generation, ONE))
                    await until(lambda due=generation: acked(replica) == ("nms-1", due))
            assert replica.sessions.all()[0].id == session
    assert told.connected == [True, False]
    assert replica.world.refusals == []


async def test_clock_of_the_control_plane_beyond_all_certificates_is_told_and_forgiven(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "kmm_daemon")
    clock, holder = SteppedClock(), Holder()
    async with serving(tmp_path, clock=clock, limits=LOOKS_OFTEN) as replica:
        files = replica.node("a", target(1, ONE))
        async with linked(replica.port, files, holder):
            await until(lambda: acked(replica) == ("nms-1", 1))
            clock.offset = LIFETIME + timedelta(days=1)
            await until(lambda: Refusal.CERTIFICATE_EXPIRED in replica.world.refusals)
            await until(lambda: caplog.records)
            assert "the certificate has expired" in fields_of(caplog.records[0])["error"]
            assert holder.holds(1, ONE)
            clock.offset = timedelta()
            await until(lambda: acked(replica) == ("nms-1", 1))
            replica.publish("a", target(2, ONE))
            await until(lambda: acked(replica) == ("nms-1", 2))
    assert holder.kinds()[0] is UpdateKind.SNAPSHOT
    assert set(holder.kinds()[1:-1]) <= {UpdateKind.UNCHANGED}
