"""What the shipped policies let cert-manager sign, decided by real approver-policy.

cert-manager's CSI driver is a stand-in that makes the driver's requests as the driver's user.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from kmm_common.logs import fields_of
from kmm_sandbox.kubeapi import KubeApi, Object
from kmm_sandbox.pki import TRUST_DOMAIN
from support.approverpolicy import (
    CERT_MANAGER,
    CSI_DRIVER,
    api_of,
    apply_policies,
    running_approver_policy,
    user,
)
from support.certificates import NAMESPACE, SERVICE_ACCOUNT
from support.certmanager import issued
from support.certvolume import CertificateVolume
from support.cluster import Cluster, running_cluster
from support.csidriver import CsiVolume, DeniedError, manifest_attributes
from support.fleet import Fleet, eventually, running_fleet
from support.kmmcp import KmmCp, new_control_plane, prepare_cluster
from support.simnode import PODS, SimNode

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3600)]
"""The first run on a machine compiles cert-manager and approver-policy."""

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "manifests/samples/approver-policy.yaml"
METRICS = ROOT / "manifests/samples/approver-policy-metrics.yaml"
SHIPPED = ROOT / "manifests/overlays/default/certificates.yaml"
CERT_MANAGER_API = f"/apis/cert-manager.io/v1/namespaces/{NAMESPACE}"
REQUESTS = f"{CERT_MANAGER_API}/certificaterequests"
SERVER_NAME = "kmm-cp.kmm-operator-system.svc"
NO_SESSION = "no session with the control plane"
_numbers = count(1)


def uri(
    *, trust_domain: str = TRUST_DOMAIN, namespace: str = NAMESPACE, account: str = SERVICE_ACCOUNT
) -> str:
    """Return a Pod's URI as the daemon's manifest has it."""
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{account}/pod/${{POD_NAME}}/${{POD_UID}}"


@dataclass(frozen=True, slots=True)
class Driver:
    """cert-manager's CSI driver, and daemons whose Pods have a volume of it."""

    cluster: Cluster
    fleet: Fleet

    async def node(self) -> SimNode:
        """Return a node whose daemon waits for its volume."""
        node = await self.fleet.node(daemon=False)
        node.server_name = SERVER_NAME
        return node

    async def volume(
        self, node: SimNode, *, account: str = CSI_DRIVER, **changes: str
    ) -> CsiVolume:
        """Return the volume of a node's daemon, still empty; keywords change its attributes."""
        changed = {f"csi.cert-manager.io/{k.replace('_', '-')}": v for k, v in changes.items()}
        return CsiVolume(
            api=await asyncio.to_thread(api_of, self.cluster, account),
            pod=await asyncio.to_thread(self.fleet.api.get, f"{PODS}/{node.pod}"),
            attributes={**manifest_attributes(), **changed},
            directory=self.fleet.directory / node.name / "tls",
        )

    async def request(self, path: str) -> Object:
        return await asyncio.to_thread(self.fleet.api.get, path)

    def sessions(self, node: SimNode) -> int:
        return len(self.fleet.control_plane.told("session opened", node=node.name))

    async def has_none(
        self, node: SimNode, volume: CsiVolume, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Start a daemon without a certificate, which must say so, and get no session."""
        await node.start(volume.files)

        async def told() -> list[str]:
            lines = [one for one in caplog.records if one.message == NO_SESSION]
            return [str(fields_of(one)["error"]) for one in lines]

        (first, *_) = await eventually(told)
        assert first.startswith(f"{volume.files.cert}, {volume.files.key}: No such file")
        assert self.sessions(node) == 0


def conditions(request: Object) -> dict[str, tuple[str, str]]:
    """Return reason and message of a request's conditions that are true, by type."""
    found = request.get("status", {}).get("conditions", ())
    return {
        one["type"]: (one["reason"], one["message"]) for one in found if one["status"] == "True"
    }


def requests_of(api: KubeApi, certificate: str) -> list[Object]:
    """Return the requests that cert-manager made for a Certificate."""

    def its(request: Object) -> bool:
        annotations = request["metadata"].get("annotations", {})
        return bool(annotations.get("cert-manager.io/certificate-name") == certificate)

    return [request for request in api.items(REQUESTS) if its(request)]


async def until(look: Callable[[], Object | None]) -> Object:
    """Look in a thread until there is something."""
    found = await eventually(lambda: asyncio.to_thread(look), seconds=60.0)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with (
        running_cluster(tmp_path_factory.mktemp("kubernetes")) as started,
        running_approver_policy(started, tmp_path_factory.mktemp("cert-manager")),
    ):
        prepare_cluster(started)
        apply_policies(started, MANIFEST)
        started.kubectl.apply(SHIPPED.read_text())
        yield started


@pytest.fixture(scope="module")
def plane(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmmCp]:
    """kmm-cp with the certificate that the shipped Certificate brought."""
    made = new_control_plane(cluster, tmp_path_factory.mktemp("kmm-cp"))
    volume = CertificateVolume(made.directory / "tls")
    volume.replace(issued(cluster.api, f"/api/v1/namespaces/{NAMESPACE}/secrets/kmm-cp-tls"))
    files = volume.files
    made.settings["tls"] = {"cert": str(files.cert), "key": str(files.key), "ca": str(files.ca)}
    try:
        yield made
        assert made.stop() == 0
        assert made.refusals() == set()
    finally:
        made.close()


@pytest.fixture
async def driver(cluster: Cluster, plane: KmmCp, tmp_path: Path) -> AsyncIterator[Driver]:
    async with running_fleet(plane, f"p{next(_numbers)}", tmp_path) as fleet:
        yield Driver(cluster, fleet)


async def test_what_the_manifest_asks_for_is_approved_and_opens_a_session(driver: Driver) -> None:
    fleet = driver.fleet
    node = await driver.node()
    volume = await driver.volume(node)
    await asyncio.to_thread(volume.publish)
    (name,) = volume.requests
    request = await driver.request(f"{REQUESTS}/{name}")
    assert request["spec"]["username"] == user(CSI_DRIVER)
    said = 'Approved by CertificateRequestPolicy: "kmm-daemon"'
    assert conditions(request)["Approved"] == ("policy.cert-manager.io", said)
    await node.start(volume.files)
    await fleet.apply()
    await fleet.loaded()
    assert driver.sessions(node) == 1


@pytest.mark.parametrize("certificate", ["kmm-cp", "kmm-authority"])
async def test_shipped_certificates_are_approved_by_policies_of_their_own(
    driver: Driver, certificate: str
) -> None:
    (request,) = await asyncio.to_thread(requests_of, driver.fleet.api, certificate)
    assert request["spec"]["username"] == user(CERT_MANAGER)
    said = f'Approved by CertificateRequestPolicy: "{certificate}"'
    assert conditions(request)["Approved"] == ("policy.cert-manager.io", said)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"uri_sans": uri(account="default")}, "allowed.uris.values", id="account"),
        pytest.param({"uri_sans": uri(namespace="default")}, "allowed.uris.values", id="namespace"),
        pytest.param({"uri_sans": uri(trust_domain="kmm.example")}, "allowed.uris.values", id="td"),
        pytest.param(
            {"uri_sans": f"{uri()},{uri(account='kmm-cp')}"}, "allowed.uris.values", id="two"
        ),
        pytest.param({"uri_sans": "", "dns_names": "a.test"}, "allowed.uris.required", id="none"),
        pytest.param({"dns_names": SERVER_NAME}, "allowed.dnsNames", id="dns"),
        pytest.param(
            {"key_usages": "server auth,digital signature"}, "allowed.usages", id="server"
        ),
        pytest.param(
            {"key_usages": "client auth,digital signature,cert sign"}, "allowed.usages", id="sign"
        ),
        pytest.param({"is_ca": "true"}, "allowed.isCA", id="authority"),
        pytest.param(
            {"key_algorithm": "RSA", "key_size": "2048"},
            "constraints.privateKey.algorithm",
            id="rsa",
        ),
        pytest.param({"key_size": "384"}, "constraints.privateKey.maxSize", id="curve"),
        pytest.param({"duration": "25h"}, "constraints.maxDuration", id="duration"),
    ],
)
async def test_request_for_anything_else_is_denied_with_the_field_and_leaves_no_certificate(
    driver: Driver, caplog: pytest.LogCaptureFixture, changes: dict[str, str], field: str
) -> None:
    node = await driver.node()
    volume = await driver.volume(node, **changes)
    with pytest.raises(DeniedError) as denied:
        await asyncio.to_thread(volume.publish)
    begin = "policy.cert-manager.io: No policy approved this request: [kmm-daemon: "
    assert str(denied.value).startswith(begin)
    assert f"spec.{field}: " in str(denied.value)
    await driver.has_none(node, volume, caplog)


@pytest.mark.parametrize(
    ("account", "changes"),
    [
        pytest.param("unbound", {}, id="user without use"),
        pytest.param(CSI_DRIVER, {"issuer_name": "selfsigned"}, id="issuer without a policy"),
        pytest.param(CSI_DRIVER, {"issuer_kind": "ClusterIssuer"}, id="cluster's issuer"),
    ],
)
async def test_request_that_no_policy_is_for_is_never_decided_and_leaves_no_certificate(
    driver: Driver, caplog: pytest.LogCaptureFixture, account: str, changes: dict[str, str]
) -> None:
    node = await driver.node()
    volume = await driver.volume(node, account=account, **changes)
    path = await asyncio.to_thread(volume.ask)
    name = path.rpartition("/")[2]
    events = f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"

    def looked_at() -> Object | None:
        said = (one for one in driver.fleet.api.items(events) if one["regarding"]["name"] == name)
        return next((one for one in said if one["reason"] == "Unprocessed"), None)

    await until(looked_at)
    request = await driver.request(path)
    assert request["spec"]["username"] == user(account)
    assert {"Approved", "Denied"}.isdisjoint(conditions(request))
    assert "certificate" not in request.get("status", {})
    await driver.has_none(node, volume, caplog)


async def test_denied_renewal_leaves_certificate_and_session(driver: Driver) -> None:
    fleet = driver.fleet
    node = await driver.node()
    volume = await driver.volume(node)
    await asyncio.to_thread(volume.publish)
    before = volume.certificate()
    await node.start(volume.files)
    await fleet.apply()
    await fleet.loaded()
    changed = await driver.volume(node, duration="48h")
    with pytest.raises(DeniedError, match=re.escape("spec.constraints.maxDuration")):
        await asyncio.to_thread(changed.publish)
    assert volume.certificate() == before
    await fleet.apply("other")
    await fleet.loaded(name="other")
    assert driver.sessions(node) == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"dnsNames": ["kmm-cp.default.svc"]}, "allowed.dnsNames.values", id="name"),
        pytest.param({"usages": ["client auth"]}, "allowed.usages", id="client"),
        pytest.param(
            {"uris": [f"spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{SERVICE_ACCOUNT}/pod/a/b"]},
            "allowed.uris",
            id="daemon",
        ),
        pytest.param({"isCA": True}, "allowed.isCA", id="authority"),
        pytest.param({"duration": None}, "constraints.maxDuration", id="no duration"),
        pytest.param({"duration": "2161h"}, "constraints.maxDuration", id="duration"),
        pytest.param(
            {"privateKey": {"algorithm": "RSA", "size": 4096}},
            "constraints.privateKey.algorithm",
            id="rsa",
        ),
    ],
)
async def test_certificate_that_is_no_control_planes_is_denied_with_the_field(
    driver: Driver, changes: Object, field: str
) -> None:
    """Whoever may make Certificates in the operator's namespace makes no daemon by them."""
    api, name = driver.fleet.api, driver.fleet.name
    shipped = await asyncio.to_thread(api.get, f"{CERT_MANAGER_API}/certificates/kmm-cp")
    spec = {**shipped["spec"], "secretName": name, **changes}
    body = {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {"name": name},
        "spec": {key: value for key, value in spec.items() if value is not None},
    }
    await asyncio.to_thread(api.create, f"{CERT_MANAGER_API}/certificates", body)

    def decided() -> Object | None:
        return next((one for one in requests_of(api, name) if conditions(one)), None)

    said = conditions(await until(decided))
    assert "Approved" not in said
    reason, message = said["Denied"]
    assert reason == "policy.cert-manager.io"
    assert message.startswith("No policy approved this request: [kmm-cp: ")
    assert f"spec.{field}: " in message
    found = await driver.fleet.find(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")
    assert found is None


async def test_policies_for_metrics_allow_the_daemons_name_and_no_other(driver: Driver) -> None:
    """Last: the policies stay, and what the others deny is then denied by these as well."""
    await asyncio.to_thread(apply_policies, driver.cluster, METRICS)
    component = ROOT / "manifests/daemon-metrics/cert-manager"
    await asyncio.to_thread(
        driver.cluster.kubectl, "apply", "-f", str(component / "certificate.yaml")
    )
    secret = f"/api/v1/namespaces/{NAMESPACE}/secrets/kmm-scraper"
    await asyncio.to_thread(issued, driver.fleet.api, secret)
    usages = "client auth,server auth,digital signature"
    node = await driver.node()
    volume = await driver.volume(node, dns_names=f"kmm-daemon.{NAMESPACE}.svc", key_usages=usages)
    await asyncio.to_thread(volume.publish)
    (name,) = volume.requests
    request = await driver.request(f"{REQUESTS}/{name}")
    said = 'Approved by CertificateRequestPolicy: "kmm-daemon-metrics"'
    assert conditions(request)["Approved"] == ("policy.cert-manager.io", said)
    await node.start(volume.files)
    await driver.fleet.apply()
    await driver.fleet.loaded()
    posing = await driver.volume(node, dns_names=SERVER_NAME, key_usages=usages)
    with pytest.raises(DeniedError, match=re.escape("spec.allowed.dnsNames.values")):
        await asyncio.to_thread(posing.publish)
