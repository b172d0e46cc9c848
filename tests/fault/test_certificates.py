"""Certificates replaced under running programs, as kubelet and cert-manager's CSI driver do it."""

import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kmm_common.logs import fields_of
from kmm_common.tls import TlsFiles, TlsFilesError, pod_uri
from kmm_cp.serving.ports import Refusal
from kmm_daemon.values import UpdateKind
from kmm_sandbox.pki import TRUST_DOMAIN, Authority, Credential, Identity
from support.certificates import Certificates, pod_of
from support.certvolume import CertificateVolume, bundle
from support.desired import desired
from support.link import Holder, Told, acked, end_session, linked
from support.serving import Serving, facts, serving, target, until

ROTATIONS = 100
SEED = 1
NODE, ONE = "a", desired("one")
SERVER = Identity(common_name="server", hosts=["localhost"], server=True)
DAEMON = Identity(common_name="daemon", uris=(pod_uri(pod_of(NODE), TRUST_DOMAIN),), client=True)


class MountedCertificates(Certificates):
    """The control plane's come from a volume."""

    def __init__(self, directory: Path, volume: CertificateVolume) -> None:
        super().__init__(directory)
        self._volume = volume

    def server(self) -> TlsFiles:
        return self._volume.files


@dataclass(slots=True, kw_only=True)
class Link:
    """A control plane and a daemon with a session, and the volume of each."""

    replica: Serving
    servers: CertificateVolume
    daemons: CertificateVolume
    authority: Authority
    """Of both sides at first."""
    holder: Holder = field(default_factory=Holder)
    told: Told = field(default_factory=Told)

    def give_server(self, issuer: Authority, *trusted: Authority) -> None:
        """Replace the control plane's files; it looks at them as it does every ten seconds."""
        self.servers.publish(issuer.issue(SERVER), bundle(*trusted))
        assert self.replica.tls.reload()

    def give_daemon(self, issuer: Authority, *trusted: Authority) -> None:
        self.daemons.publish(issuer.issue(DAEMON), bundle(*trusted))

    async def connect_anew(self) -> None:
        """End the session and wait for the next one."""
        first = self.session
        end_session(self.replica)
        await self.connected(after=first)

    async def connected(self, *, after: str = "") -> None:
        await until(lambda: self.session not in ("", after))
        await until(lambda: acked(self.replica) == ("nms-1", 1))

    @property
    def session(self) -> str:
        """Id of the live session; empty without one."""
        sessions = self.replica.sessions.all()
        return sessions[0].id if sessions else ""


@asynccontextmanager
async def mounted(directory: Path) -> AsyncIterator[Link]:
    authority = Authority("first")
    servers, daemons = (CertificateVolume(directory / side) for side in ("servers", "daemons"))
    servers.publish(authority.issue(SERVER), bundle(authority))
    daemons.publish(authority.issue(DAEMON), bundle(authority))
    certificates = MountedCertificates(directory / "others", servers)
    async with serving(directory, certificates=certificates) as replica:
        replica.world.pods[pod_of(NODE).name] = facts(NODE)
        replica.publish(NODE, target(1, ONE))
        link = Link(replica=replica, servers=servers, daemons=daemons, authority=authority)
        async with linked(replica.port, daemons.files, link.holder, told=link.told):
            await link.connected()
            yield link


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Link]:
    async with mounted(tmp_path) as link:
        yield link


@pytest.fixture(autouse=True)
def warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


def problems(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return why the daemon said that there is no session."""
    told = [one for one in caplog.records if one.message == "no session with the control plane"]
    return [str(fields_of(one)["error"]) for one in told]


async def rotate(link: Link, new: Authority, chance: random.Random) -> None:
    """Go over to another authority in the order that leaves nobody out.

    First everybody trusts both, then everybody is issued anew, then the old one goes; which side
    is first in each part is left to chance.
    """
    old = link.authority
    parts: Sequence[tuple[Authority, Sequence[Authority]]] = (
        (old, (old, new)),
        (new, (old, new)),
        (new, (new,)),
    )
    for issuer, trusted in parts:
        sides = [link.give_server, link.give_daemon]
        chance.shuffle(sides)
        for give in sides:
            before = link.session
            give(issuer, *trusted)
            assert link.session == before, "new files end no session"
            await link.connect_anew()
    link.authority = new


@pytest.mark.timeout(300)
async def test_authority_rotated_with_overlap_fails_no_handshake(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(SEED)  # noqa: S311 a seed, no secret
    for number in range(ROTATIONS):
        await rotate(link, Authority(f"authority {number}"), chance)
    assert set(problems(caplog)) == {"UNAVAILABLE: the session is old; connect again"}
    assert link.replica.world.refusals == []
    assert link.told.connected.count(True) == 1 + 6 * ROTATIONS
    # Nothing is desired anew, so nothing is loaded anew.
    assert link.holder.kinds() == [UpdateKind.SNAPSHOT, *[UpdateKind.UNCHANGED] * 6 * ROTATIONS]


def mixed(one: Credential, other: Credential) -> Credential:
    """Return what is there between two copies: the certificate of one, the key of the other."""
    return Credential(certificate=one.certificate, key=other.key)


async def test_daemon_with_files_copied_half_way_waits_for_the_rest(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    issued, trusted = [link.authority.issue(DAEMON) for _ in range(2)], bundle(link.authority)
    link.daemons.publish(mixed(*issued), trusted)
    end_session(link.replica)
    await until(lambda: len(problems(caplog)) == 2)
    assert (
        "the key is not that of the certificate; put both of one issue there" in problems(caplog)[1]
    )
    link.daemons.publish(issued[0], trusted)
    await link.connected()
    assert len(problems(caplog)) == 2, "one line, however often it was tried"
    assert link.holder.kinds() == [UpdateKind.SNAPSHOT, UpdateKind.UNCHANGED]


async def test_control_plane_with_files_copied_half_way_serves_by_the_old_ones(link: Link) -> None:
    issued, trusted = [link.authority.issue(SERVER) for _ in range(2)], bundle(link.authority)
    link.servers.publish(mixed(*issued), trusted)
    with pytest.raises(TlsFilesError, match="the key is not that of the certificate"):
        link.replica.tls.reload()
    await link.connect_anew()
    link.servers.publish(issued[0], trusted)
    assert link.replica.tls.reload()
    await link.connect_anew()
    assert link.replica.world.refusals == []


async def test_authority_replaced_without_overlap_is_told_on_both_ends_until_all_have_it(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    new, before = Authority("new"), link.session
    link.give_server(new, new)
    assert link.session == before, "the session that is there goes on"
    end_session(link.replica)
    ca = link.daemons.files.ca
    await until(
        lambda: any(f"not of an authority in {ca} " in problem for problem in problems(caplog))
    )
    await until(lambda: Refusal.HANDSHAKE_FAILED in link.replica.world.refusals)
    # Now the daemon trusts the new one, but is still known by a certificate of the old one.
    link.give_daemon(link.authority, new)
    await until(lambda: Refusal.UNTRUSTED_CERTIFICATE in link.replica.world.refusals)
    await until(lambda: "refuses this daemon's certificate" in problems(caplog)[-1])
    refused = [one for one in caplog.records if one.message == "peer refused"]
    assert [fields_of(one)["reason"] for one in refused] == [
        Refusal.HANDSHAKE_FAILED,
        Refusal.UNTRUSTED_CERTIFICATE,
    ]
    assert all("tls.ca" in fields_of(one)["remedy"] for one in refused)
    assert link.holder.holds(1, ONE), "what is loaded stays"
    link.give_daemon(new, new)
    await link.connected()
    assert link.holder.kinds() == [UpdateKind.SNAPSHOT, UpdateKind.UNCHANGED]
