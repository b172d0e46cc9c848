"""Certificates of real cert-manager controllers, for the volume of the daemon's own manifest."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from kmm_common.tls import PodIdentity, TlsFiles, pod_uri
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.pki import TRUST_DOMAIN
from support.certificates import NAMESPACE, SERVICE_ACCOUNT
from support.certmanager import issued, running_cert_manager
from support.certvolume import CA, CERT, KEY, CertificateVolume
from support.cluster import Cluster, running_cluster
from support.csidriver import CsiVolume, manifest_attributes
from support.fleet import Fleet, eventually, running_fleet
from support.kmmcp import new_control_plane, prepare_cluster
from support.simnode import PODS, SimNode

pytestmark = pytest.mark.timeout(3600)
"""The first run on a machine compiles the controllers."""

CERT_MANAGER = f"/apis/cert-manager.io/v1/namespaces/{NAMESPACE}"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Authorities:
    """cert-manager's own: what an administrator applies, and reads back."""

    cluster: Cluster

    def make(self, name: str) -> None:
        """Make an authority with an issuer that signs by it, both of one name."""
        self.apply("Issuer", "selfsigned", {"selfSigned": {}})
        spec = {
            "isCA": True,
            "commonName": name,
            "secretName": f"{name}-authority",
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Never"},
            "issuerRef": {"name": "selfsigned"},
        }
        self.apply("Certificate", f"{name}-authority", spec)
        self.apply("Issuer", name, {"ca": {"secretName": f"{name}-authority"}})

    def serving(self, issuer: str) -> None:
        """Have the control plane's certificate issued, by whichever issuer is named last."""
        spec = {
            "secretName": "kmm-cp-tls",
            "dnsNames": ["localhost"],
            "usages": ["server auth", "digital signature"],
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            "duration": "24h",
            "renewBefore": "8h",
            "issuerRef": {"name": issuer},
        }
        self.apply("Certificate", "kmm-cp", spec)

    def apply(self, kind: str, name: str, spec: Object) -> None:
        path = f"{CERT_MANAGER}/{kind.lower()}s"
        body = {"apiVersion": "cert-manager.io/v1", "kind": kind, "metadata": {"name": name}}
        self.cluster.api.ensure(path, {**body, "spec": spec})
        self.cluster.api.merge(f"{path}/{name}", {"spec": spec})

    def renew(self, name: str) -> None:
        """Do what `cmctl renew` does."""
        before = self.cluster.api.get(f"{CERT_MANAGER}/certificates/{name}")
        issuing = {
            "type": "Issuing",
            "status": "True",
            "reason": "ManuallyTriggered",
            "message": "renewed by a test",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        kept = [one for one in before["status"]["conditions"] if one["type"] != "Issuing"]
        status = {"conditions": [*kept, issuing]}
        self.cluster.api.merge(f"{CERT_MANAGER}/certificates/{name}/status", {"status": status})

    def secret(self, name: str, unlike: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
        """Wait for a Secret that has a certificate, and another one than before."""
        return issued(self.cluster.api, f"{SECRETS}/{name}", unlike)

    def trusted(self, *names: str) -> bytes:
        """Return what a bundle of these authorities holds."""
        return b"".join(self.secret(f"{name}-authority")[CERT] for name in names)


@dataclass(slots=True, kw_only=True)
class Mounts:
    """The files of the control plane, whose Secret a kubelet would mount, and of daemons."""

    authorities: Authorities
    fleet: Fleet
    plane: CertificateVolume
    bundle: Path
    """What daemons trust, where it is not what the driver brings."""
    volumes: dict[str, CsiVolume] = field(default_factory=dict)

    def give_plane(self, secret: Mapping[str, bytes], trusted: bytes) -> None:
        self.plane.replace({CERT: secret[CERT], KEY: secret[KEY], CA: trusted})

    def volume(self, node: SimNode, **changes: str) -> CsiVolume:
        """Return the volume of a node's daemon, published; keywords change its attributes."""
        changed = {f"csi.cert-manager.io/{k.replace('_', '-')}": v for k, v in changes.items()}
        made = CsiVolume(
            api=self.fleet.api,
            pod=self.fleet.api.get(f"{PODS}/{node.pod}"),
            attributes={**manifest_attributes(), **changed},
            directory=self.fleet.directory / node.name / "tls",
        )
        made.publish()
        return made

    def reloaded(self) -> int:
        return len(self.fleet.control_plane.told("certificates reloaded"))

    async def take_over(self, give: Callable[[], None]) -> None:
        """Change the control plane's files and wait until it has seen them."""
        before = self.reloaded()
        await asyncio.to_thread(give)
        await eventually(lambda: asyncio.to_thread(self.reloaded), lambda now: now > before)

    def sessions(self, node: SimNode) -> int:
        return len(self.fleet.control_plane.told("session opened", node=node.name))


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authorities]:
    with (
        running_cluster(tmp_path_factory.mktemp("kubernetes")) as cluster,
        running_cert_manager(cluster, tmp_path_factory.mktemp("cert-manager")),
    ):
        prepare_cluster(cluster)
        made = Authorities(cluster)
        made.make("kmm")
        made.serving("kmm")
        yield made


@pytest.fixture
async def mounts(authorities: Authorities, tmp_path: Path) -> AsyncIterator[Mounts]:
    await asyncio.to_thread(authorities.serving, "kmm")
    plane = new_control_plane(authorities.cluster, tmp_path / "kmm-cp")
    volume = CertificateVolume(tmp_path / "plane")
    secret = await asyncio.to_thread(authorities.secret, "kmm-cp-tls")
    volume.replace({CERT: secret[CERT], KEY: secret[KEY], CA: secret[CA]})
    files = volume.files
    plane.settings["tls"] = {"cert": str(files.cert), "key": str(files.key), "ca": str(files.ca)}
    plane.directory.mkdir(exist_ok=True)
    try:
        async with running_fleet(plane, f"c{next(_numbers)}", tmp_path) as fleet:
            yield Mounts(
                authorities=authorities, fleet=fleet, plane=volume, bundle=tmp_path / "bundle.crt"
            )
        assert await asyncio.to_thread(plane.stop) == 0
        assert plane.refusals() == set()
    finally:
        plane.close()


async def test_certificate_as_the_manifest_asks_for_it_opens_a_session(mounts: Mounts) -> None:
    fleet = mounts.fleet
    node = await fleet.node(daemon=False)
    volume = await asyncio.to_thread(mounts.volume, node)
    await node.start(volume.files)
    await fleet.apply()
    await fleet.loaded()
    certificate = volume.certificate()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    uid = volume.pod["metadata"]["uid"]
    identity = PodIdentity(
        namespace=NAMESPACE, service_account=SERVICE_ACCOUNT, name=node.pod, uid=uid
    )
    assert list(names.value) == [x509.UniformResourceIdentifier(pod_uri(identity, TRUST_DOMAIN))]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    lasts = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert timedelta(hours=23) < lasts < timedelta(hours=25)


async def test_renewal_of_both_sides_drops_no_session(mounts: Mounts) -> None:
    fleet = mounts.fleet
    node = await fleet.node(daemon=False)
    volume = await asyncio.to_thread(mounts.volume, node)
    await node.start(volume.files)
    await fleet.apply()
    await fleet.loaded()
    first = volume.certificate().serial_number
    await asyncio.to_thread(volume.publish)
    assert volume.certificate().serial_number != first
    secret = await asyncio.to_thread(mounts.authorities.secret, "kmm-cp-tls")
    await asyncio.to_thread(mounts.authorities.renew, "kmm-cp")
    renewed = await asyncio.to_thread(mounts.authorities.secret, "kmm-cp-tls", secret)
    await mounts.take_over(lambda: mounts.give_plane(renewed, renewed[CA]))
    await fleet.apply("other")
    await fleet.loaded(name="other")
    assert mounts.sessions(node) == 1
    await node.stop()
    await node.start(volume.files)
    await fleet.apply("third")
    await fleet.loaded(name="third")
    assert mounts.sessions(node) == 2
    assert node.kernel.loads(fleet.ref()) == 1


async def test_authority_rotated_with_overlap_refuses_nobody(mounts: Mounts) -> None:
    """By a bundle of both authorities, as trust-manager makes one: the driver brings only one."""
    fleet, authorities = mounts.fleet, mounts.authorities
    new = f"{fleet.name}-new"
    await asyncio.to_thread(authorities.make, new)
    node = await fleet.node(daemon=False)
    old_volume = await asyncio.to_thread(mounts.volume, node)
    both, only_old, only_new = [
        await asyncio.to_thread(authorities.trusted, *names)
        for names in (("kmm", new), ("kmm",), (new,))
    ]
    mounts.bundle.write_bytes(only_old)
    files = old_volume.files
    files = TlsFiles(cert=files.cert, key=files.key, ca=mounts.bundle)
    await node.start(files)
    await fleet.apply()
    await fleet.loaded()
    secret = await asyncio.to_thread(authorities.secret, "kmm-cp-tls")

    async def reconnect(times: int) -> None:
        """Prove, with another session, that both still know each other."""
        assert mounts.sessions(node) == times - 1, "new files end no session"
        await node.stop()
        await node.start(files)
        await eventually(lambda: asyncio.to_thread(mounts.sessions, node), lambda now: now == times)
        await fleet.apply(f"m{times}")
        await fleet.loaded(name=f"m{times}")

    # First everybody trusts both.
    mounts.bundle.write_bytes(both)
    await reconnect(2)
    await mounts.take_over(lambda: mounts.give_plane(secret, both))
    await reconnect(3)
    # Then everybody gets a certificate of the new one.
    new_volume = CsiVolume(
        api=fleet.api,
        pod=old_volume.pod,
        attributes={**manifest_attributes(), "csi.cert-manager.io/issuer-name": new},
        directory=old_volume.directory,
    )
    await asyncio.to_thread(new_volume.publish)
    await reconnect(4)
    await asyncio.to_thread(authorities.serving, new)
    secret = await asyncio.to_thread(authorities.secret, "kmm-cp-tls", secret)
    await mounts.take_over(lambda: mounts.give_plane(secret, both))
    await reconnect(5)
    # Then the old one goes.
    mounts.bundle.write_bytes(only_new)
    await mounts.take_over(lambda: mounts.give_plane(secret, only_new))
    await reconnect(6)
    assert fleet.control_plane.told("peer refused") == []
    assert node.kernel.loads(fleet.ref()) == 1


async def test_renewed_authority_with_its_old_key_needs_no_overlap(mounts: Mounts) -> None:
    """As an authority's Certificate with rotationPolicy Never is renewed."""
    fleet, authorities = mounts.fleet, mounts.authorities
    node = await fleet.node(daemon=False)
    volume = await asyncio.to_thread(mounts.volume, node)
    before = await asyncio.to_thread(authorities.secret, "kmm-authority")
    await asyncio.to_thread(authorities.renew, "kmm-authority")
    after = await asyncio.to_thread(authorities.secret, "kmm-authority", before)
    assert after[KEY] == before[KEY]
    assert after[CERT] != before[CERT]
    # The daemon trusts the old certificate, the control plane the new one.
    secret = await asyncio.to_thread(authorities.secret, "kmm-cp-tls")
    await mounts.take_over(lambda: mounts.give_plane(secret, after[CERT]))
    await node.start(volume.files)
    await fleet.apply()
    await fleet.loaded()
    assert fleet.control_plane.told("peer refused") == []


async def test_pod_without_its_name_in_the_manifest_is_no_daemon(mounts: Mounts) -> None:
    fleet = mounts.fleet
    node = await fleet.node(daemon=False)
    uri = f"spiffe://{TRUST_DOMAIN}/ns/${{POD_NAMESPACE}}/sa/${{SERVICE_ACCOUNT_NAME}}"
    volume = await asyncio.to_thread(mounts.volume, node, uri_sans=uri)
    await node.start(volume.files)
    await eventually(
        lambda: asyncio.to_thread(fleet.control_plane.told, "peer refused", reason="NoPod")
    )
    assert mounts.sessions(node) == 0
