"""Daemons get their certificates for tokens of their Pods; the API server says whose these are."""

import asyncio
import base64
import dataclasses
import json
import os
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from kmm_common.tls import PodIdentity, ServerTls, TlsFiles, pod_uri
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_cp.kube.client import KubeClient
from kmm_cp.policy.pullsecrets import ROLE, binding_command
from kmm_cp.roles.adapters import ConfigMapWriter
from kmm_cp.roles.enrolment import SecretStore
from kmm_cp.serving.authority import LIFE, NEXT_AFTER, AuthorityError
from kmm_cp.serving.enrolment import BURST
from kmm_cp.serving.enrolport import BODY_BYTES, MOST_OF_HOST
from kmm_cp.serving.keeper import AuthorityKeeper
from kmm_cp.serving.ports import Refusal
from kmm_cp.serving.scraper import ScraperKeeper
from kmm_cp.serving.token import AUDIENCE
from kmm_daemon.app import ran
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.pki import TRUST_DOMAIN
from kmm_sandbox.programs import GROUPS, USER
from support import rights
from support.certificates import NAMESPACE, SERVICE_ACCOUNT
from support.cluster import Cluster, running_cluster
from support.enrolled import (
    CONFIG_MAP,
    SECRET,
    Mounts,
    dialled_port,
    enrolling_control_plane,
    hang_up,
    post,
    prepare_authority,
    running_enrolling,
    token,
)
from support.faultproxy import proxied
from support.fleet import Fleet, eventually, running_fleet
from support.kmmcp import KmmCp
from support.serving import DEADLINE, dialled, report, request, watch
from support.simnode import PODS, SimNode
from support.steppedclock import SteppedClock

LEAF = timedelta(days=1)
API_SERVER = "https://kubernetes.default.svc"
"""The audience of tokens for the API server itself."""
SCRAPER = f"/api/v1/namespaces/{NAMESPACE}/secrets/kmm-scraper"
_numbers = count(1)
MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("kubernetes")) as started:
        yield started


@pytest.fixture(scope="module")
def plane(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmmCp]:
    with running_enrolling(cluster, tmp_path_factory.mktemp("kmm-cp")) as started:
        yield started


@pytest.fixture
async def fleet(plane: KmmCp, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with running_fleet(plane, f"e{next(_numbers)}", tmp_path) as started:
        yield started


async def mounted(fleet: Fleet, name: str = "a") -> Mounts:
    """Return a node whose daemon has not enrolled yet."""
    node = await fleet.node(name, daemon=False)
    mounts = Mounts(
        node=node, plane=fleet.control_plane, directory=fleet.directory / f"mounts-{name}"
    )
    await asyncio.to_thread(mounts.project)
    return mounts


async def pod(fleet: Fleet, node: SimNode) -> Object:
    return await asyncio.to_thread(fleet.api.get, f"{PODS}/{node.pod}")


async def test_daemon_enrols_with_the_token_of_its_pod_and_loads(fleet: Fleet) -> None:
    mounts = await mounted(fleet)
    async with mounts.renewing() as renewal:
        async with asyncio.timeout(DEADLINE):
            await renewal.enrolled.wait()
        await mounts.node.start(mounts.files)
        await fleet.apply()
        await fleet.loaded()
    uid = (await pod(fleet, mounts.node))["metadata"]["uid"]
    names = mounts.certificate().extensions.get_extension_for_class(x509.SubjectAlternativeName)
    identity = PodIdentity(
        namespace=NAMESPACE, service_account=SERVICE_ACCOUNT, name=mounts.node.pod, uid=uid
    )
    assert names.critical
    assert list(names.value) == [
        x509.UniformResourceIdentifier(pod_uri(identity, TRUST_DOMAIN)),
        x509.DNSName(f"kmm-daemon.{NAMESPACE}.svc"),
    ]
    assert stat.S_IMODE(mounts.files.key.stat().st_mode) == 0o600
    (line,) = fleet.control_plane.told("daemon enrolled", pod=mounts.node.pod)
    assert line["node"] == mounts.node.name


def test_manifests_without_cert_manager_are_what_the_api_server_takes(
    plane: KmmCp, tmp_path: Path
) -> None:
    (tmp_path / "podtemplate.yaml").symlink_to(MANIFESTS / "base/daemon/podtemplate.yaml")
    parts = {
        "resources": ["podtemplate.yaml"],
        "components": [os.path.relpath(MANIFESTS / "builtin-ca", tmp_path)],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(parts))
    kubectl = plane.cluster.kubectl
    built = kubectl("kustomize", "--load-restrictor=LoadRestrictionsNone", str(tmp_path))
    kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=built)
    (daemon,) = (one for one in yaml.safe_load_all(built) if one["kind"] == "PodTemplate")
    spec = daemon["template"]["spec"]
    volumes = {one.pop("name"): one for one in spec["volumes"]}
    assert volumes["tls"] == {"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    (token_source,) = volumes["token"]["projected"]["sources"]
    assert token_source["serviceAccountToken"]["audience"] == AUDIENCE
    assert spec["automountServiceAccountToken"] is False
    mounts = {one["name"]: one for one in spec["containers"][0]["volumeMounts"]}
    assert not mounts["tls"].get("readOnly")
    assert mounts["token"]["readOnly"]


async def test_nothing_that_daemons_see_or_logs_have_has_a_key_or_a_token(fleet: Fleet) -> None:
    mounts = await mounted(fleet)
    assert await mounts.enrol() == ""
    # As a GitOps tool does again and again.
    await asyncio.to_thread(prepare_authority, fleet.control_plane.cluster)
    assert (await asyncio.to_thread(fleet.api.get, SECRET))["data"]
    seen = await asyncio.to_thread(fleet.api.get, CONFIG_MAP)
    assert set(seen["data"]) == {"ca.crt"}
    assert "PRIVATE" not in seen["data"]["ca.crt"]
    log = fleet.control_plane.log.read_text()
    assert "PRIVATE KEY" not in log
    assert mounts.token.read_text() not in log
    audited = fleet.control_plane.cluster.audit_log.read_text()
    assert mounts.token.read_text() not in audited


async def test_token_of_a_daemon_is_of_no_use_at_the_api_server(fleet: Fleet) -> None:
    mounts = await mounted(fleet)
    cluster = fleet.control_plane.cluster
    usual = token(fleet.api, await pod(fleet, mounts.node), audience=API_SERVER)
    assert await answered(cluster, usual) == 200
    assert await answered(cluster, mounts.token.read_text()) == 401


async def answered(cluster: Cluster, shown: str) -> int:
    """Return the status with which the API server answers a request with a token."""
    context = ssl.create_default_context(cafile=str(cluster.plane.layout.ca))
    headers = {"Authorization": f"Bearer {shown}"}
    url = f"{cluster.api.url}/api"
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers=headers, ssl=context) as answer,
    ):
        return answer.status


async def test_renewal_drops_no_session_and_the_next_one_has_the_new_certificate(
    fleet: Fleet,
) -> None:
    mounts = await mounted(fleet)
    assert await mounts.enrol() == ""
    await mounts.node.start(mounts.files)
    await fleet.apply()
    await fleet.loaded()
    first = mounts.certificate()
    assert await mounts.enrol() == ""
    assert mounts.certificate().serial_number != first.serial_number
    assert mounts.certificate().public_key() != first.public_key(), "every one has a new key"
    await fleet.apply("other")
    await fleet.loaded(name="other")
    assert len(fleet.control_plane.told("session opened", node=mounts.node.name)) == 1
    await mounts.node.stop()
    await mounts.node.start(mounts.files)
    await fleet.apply("third")
    await fleet.loaded(name="third")
    assert mounts.node.kernel.loads(fleet.ref()) == 1


def strangers_request(uri: str) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    """Return a request that asks for another pod's name, as somebody, and as an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "system:masters")])
    builder = x509.CertificateSigningRequestBuilder(name)
    names = [x509.UniformResourceIdentifier(uri), x509.DNSName("localhost")]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), key


async def asked(fleet: Fleet, mounts: Mounts, body: object) -> tuple[int, dict[str, str], str]:
    content = json.dumps(body).encode()
    head = f"POST /enrol HTTP/1.1\r\nHost: kmm\r\nContent-Length: {len(content)}\r\n\r\n"
    answer = await post(fleet.control_plane, head.encode() + content, ca=mounts.files.ca)
    return answer.status, json.loads(answer.body), answer.headers


async def test_of_a_request_for_a_certificate_only_the_key_counts(fleet: Fleet) -> None:
    """Node A's token with node B's name in the request gives a certificate of node A."""
    a, b = await mounted(fleet, "a"), await mounted(fleet, "b")
    uid = (await pod(fleet, b.node))["metadata"]["uid"]
    other = PodIdentity(
        namespace=NAMESPACE, service_account=SERVICE_ACCOUNT, name=b.node.pod, uid=uid
    )
    csr, key = strangers_request(pod_uri(other, TRUST_DOMAIN))
    body = {"token": a.token.read_text(), "csr": csr.decode()}
    status, answer, _ = await asked(fleet, a, body)
    assert status == 200
    issued = x509.load_pem_x509_certificate(answer["certificate"].encode())
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert f"/pod/{a.node.pod}/" in uri
    assert list(names) == [
        x509.UniformResourceIdentifier(uri),
        x509.DNSName(f"kmm-daemon.{NAMESPACE}.svc"),
    ]
    assert list(issued.subject) == []
    basic = issued.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert not basic.ca
    # What it serves under is the name of no control plane.
    assert list(usage) == [
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    ]
    assert issued.public_key() == key.public_key()
    assert issued.not_valid_after_utc - issued.not_valid_before_utc <= timedelta(hours=25)


def altered(text: str, **claims: Any) -> str:
    """Return a token with other claims, whose signature does not hold any more."""
    head, payload, signature = text.split(".")
    known = json.loads(base64.urlsafe_b64decode(payload + "=="))
    changed = base64.urlsafe_b64encode(json.dumps({**known, **claims}).encode()).decode()
    return f"{head}.{changed.rstrip('=')}.{signature}"


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        ("audience", 401, "another audience; mount a projected serviceAccountToken volume"),
        ("unbound", 401, "bound to no Pod; mount a projected"),
        ("account", 401, "of no daemon's service account; run the daemon under"),
        ("expired", 401, "has expired; the kubelet renews it"),
        ("forged", 401, "the API server does not take it"),
        ("forged pod", 401, "the API server does not take it"),
        ("words", 401, "no service account token"),
        ("gone", 503, "not known here yet; try again"),
        ("terminating", 403, "its pod is being deleted"),
    ],
)
async def test_token_that_lets_nobody_in_is_refused_with_a_remedy_and_no_word_of_others(
    fleet: Fleet, kind: str, status: int, words: str
) -> None:
    mounts, other = await mounted(fleet), await mounted(fleet, "other")
    shown = await asyncio.to_thread(bad_token, fleet, mounts, other, kind)
    csr, _ = strangers_request("spiffe://other")

    async def answered() -> tuple[int, dict[str, str], str]:
        return await asked(fleet, mounts, {"token": shown, "csr": csr.decode()})

    # A Pod that has just gone may be in the cache for another moment.
    got, answer, _ = await eventually(answered, lambda answer: answer[0] == status)
    assert words in answer["error"]
    assert other.node.name not in answer["error"]
    assert other.node.pod not in answer["error"]
    assert "certificate" not in answer
    if kind == "terminating":
        patch = {"metadata": {"finalizers": None}}
        await asyncio.to_thread(fleet.api.merge, f"{PODS}/{mounts.node.pod}", patch)
    # The other one is served all the same.
    assert await other.enrol() == ""
    assert got == status


def bad_token(fleet: Fleet, mounts: Mounts, other: Mounts, kind: str) -> str:
    api, path = fleet.api, f"{PODS}/{mounts.node.pod}"
    ours, good = api.get(path), mounts.token.read_text()
    match kind:
        case "audience":
            return token(api, ours, audience=API_SERVER)
        case "unbound":
            return token(api, None)
        case "account":
            api.ensure(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", named("stranger"))
            spec = {**ours["spec"], "serviceAccountName": "stranger"}
            made = {"metadata": {"name": f"{mounts.node.pod}-stranger"}, "spec": spec}
            stranger = api.create(PODS, made)
            try:
                return token(api, stranger, account="stranger")
            finally:
                api.delete(f"{PODS}/{mounts.node.pod}-stranger")
        case "expired":
            return altered(good, exp=1)
        case "forged":
            return altered(good, exp=2**33)
        case "forged pod":
            there = api.get(f"{PODS}/{other.node.pod}")["metadata"]
            return altered(
                good,
                **{
                    "kubernetes.io": {
                        "namespace": NAMESPACE,
                        "serviceaccount": {"name": SERVICE_ACCOUNT},
                        "pod": {"name": there["name"], "uid": there["uid"]},
                    }
                },
            )
        case "words":
            return "no token at all"
        case "gone":
            api.delete(path)
        case "terminating":
            api.merge(path, {"metadata": {"finalizers": ["kmm.test/held"]}})
            api.delete(path)
    return good


def named(name: str) -> Object:
    return {"metadata": {"name": name}}


async def test_pod_that_asks_too_often_is_told_to_wait_and_nobody_else(fleet: Fleet) -> None:
    eager, other = await mounted(fleet), await mounted(fleet, "other")
    csr, _ = strangers_request("spiffe://other")
    body = {"token": eager.token.read_text(), "csr": csr.decode()}
    answers = [await asked(fleet, eager, body) for _ in range(BURST + 1)]
    assert [status for status, _, _ in answers] == [200] * BURST + [429]
    assert "Retry-After: " in answers[-1][2]
    assert "too often" in answers[-1][1]["error"]
    assert await other.enrol() == ""


def other_csr(kind: str) -> str:
    good = strangers_request("spiffe://other")[0].decode()
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    match kind:
        case "rsa":
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
        case "p384":
            curve = ec.generate_private_key(ec.SECP384R1())
            return builder.sign(curve, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
        case "two":
            return good + good
        case "unproved":
            text = "".join(good.splitlines()[1:-1])
            der = bytearray(base64.b64decode(text))
            der[-1] ^= 1
            mid = base64.b64encode(der).decode()
            return (
                f"-----BEGIN CERTIFICATE REQUEST-----\n{mid}\n-----END CERTIFICATE REQUEST-----\n"
            )
    return kind


@pytest.mark.parametrize("kind", ["rsa", "p384", "two", "unproved", "no request"])
async def test_request_that_is_not_for_one_key_of_the_curve_is_refused(
    fleet: Fleet, kind: str
) -> None:
    mounts = await mounted(fleet)
    csr = await asyncio.to_thread(other_csr, kind)
    status, answer, _ = await asked(fleet, mounts, {"token": mounts.token.read_text(), "csr": csr})
    assert status == 400
    assert "send one PKCS#10 request in PEM for a key of the curve P-256" in answer["error"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"GET /enrol HTTP/1.1\r\nHost: kmm\r\n\r\n", 405),
        (b"POST /metrics HTTP/1.1\r\nHost: kmm\r\nContent-Length: 0\r\n\r\n", 404),
        (b"POST /enrol HTTP/1.1\r\nHost: kmm\r\nContent-Length: 2\r\n\r\n[]", 400),
        (b"POST /enrol HTTP/1.1\r\nHost: kmm\r\nContent-Length: 4\r\n\r\n\xff\xfe\xfd\xfc", 400),
        (
            b"POST /enrol HTTP/1.1\r\nHost: kmm\r\nContent-Length: 9000000\r\n\r\n" + b"[" * 65536,
            413,
        ),
        (b"\x00\x01\x02\r\n\r\n", 400),
    ],
    ids=["method", "path", "json", "bytes", "length", "http"],
)
async def test_what_is_no_request_is_bounded_and_disturbs_nobody(
    fleet: Fleet, content: bytes, status: int
) -> None:
    assert len(content) < 2**17
    assert BODY_BYTES < 65536
    mounts = await mounted(fleet)
    answer = await post(fleet.control_plane, content, ca=mounts.files.ca)
    assert answer.status == status
    assert await mounts.enrol() == ""
    told = fleet.control_plane.told("daemon not enrolled", reason=Refusal.BAD_REQUEST)
    assert len(told) == 1, "one line for a host and reason, however often"


async def test_peer_that_goes_away_in_its_request_is_nobodys_concern(fleet: Fleet) -> None:
    mounts = await mounted(fleet)
    for content in (b"", b"POST /enrol HTTP/1.1\r\nHost: kmm\r\nContent-Length: 900\r\n\r\n{"):
        await hang_up(fleet.control_plane, content, ca=mounts.files.ca)
    assert await mounts.enrol() == ""
    assert fleet.control_plane.told("request for a certificate not answered") == []
    assert "Traceback" not in fleet.control_plane.log.read_text()


async def test_host_that_holds_connections_keeps_only_itself_out(fleet: Fleet) -> None:
    mounts = await mounted(fleet)
    plane, ca = fleet.control_plane, mounts.files.ca
    held = [await dialled_port(plane, ca, host="127.0.2.1") for _ in range(MOST_OF_HOST + 4)]
    try:
        crowded = await eventually(
            lambda: asyncio.to_thread(
                plane.told, "daemon not enrolled", reason=Refusal.TOO_MANY_REQUESTS
            ),
            lambda told: any(line["peer"].startswith("127.0.2.1:") for line in told),
        )
        assert "too many connections" in crowded[-1]["error"]
        assert await mounts.enrol() == ""
    finally:
        for _, writer in held:
            writer.transport.abort()
        closing = (writer.wait_closed() for _, writer in held)
        await asyncio.gather(*closing, return_exceptions=True)


async def test_neither_port_does_the_work_of_the_other(fleet: Fleet) -> None:
    """Nobody without a certificate has a session; that of enrolment has no sessions."""
    mounts = await mounted(fleet)
    assert await mounts.enrol() == ""
    enrolling = mounts.enrolling
    strange = dataclasses.replace(enrolling, server=f"127.0.0.1:{fleet.control_plane.port}")
    assert "set enrol.server to" in await ran(strange.argv)
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    answer = await post(fleet.control_plane, greeting, ca=mounts.files.ca)
    assert answer.status >= 400


async def test_session_ends_when_its_pod_goes(fleet: Fleet) -> None:
    mounts = await mounted(fleet)
    assert await mounts.enrol() == ""
    await mounts.node.start(mounts.files)
    await fleet.apply()
    await fleet.loaded()
    await asyncio.to_thread(fleet.api.delete, f"{PODS}/{mounts.node.pod}")
    closed = await eventually(
        lambda: asyncio.to_thread(
            fleet.control_plane.told, "session closed", node=mounts.node.name
        ),
        seconds=60.0,
    )
    assert "pod" in closed[0]["reason"]
    await eventually(fleet.served, lambda served: mounts.node.name not in served)
    # Its modules and its label stay.
    assert "m" in mounts.node.kernel.rows
    assert fleet.label() in await fleet.labels(mounts.node)
    # The DaemonSet's next Pod.
    await asyncio.to_thread(mounts.node.register_pod)
    await asyncio.to_thread(mounts.project)
    await eventually(mounts.enrol, lambda problem: not problem)
    await fleet.apply("other")
    await fleet.loaded(name="other")
    assert mounts.node.kernel.loads(fleet.ref()) == 1


async def test_nothing_of_one_node_is_told_to_another(fleet: Fleet) -> None:
    a, b = await mounted(fleet, "a"), await mounted(fleet, "b")
    for mounts in (a, b):
        assert await mounts.enrol() == ""
    await b.node.start(b.files)
    await fleet.apply()
    await fleet.loaded(b.node)
    state = await fleet.state(b.node) or {}
    session = fleet.control_plane.told("session opened", node=b.node.name)[0]["session"]
    uid, generation = state["metadata"]["uid"], state["metadata"]["generation"]
    async with dialled(fleet.control_plane.port, a.files) as channel, watch(channel) as stream:
        await stream.send_message(request(uid=uid, generation=generation), end=True)
        async with asyncio.timeout(DEADLINE):
            update = await stream.recv_message()
        assert update is not None
        assert update.uid != uid, "it is told its own"
        with pytest.raises(GRPCError) as caught:
            async with asyncio.timeout(DEADLINE), report(channel) as reports:
                hello = pb.ReportHello(session_id=session)
                await reports.send_message(pb.ReportMessage(hello=hello), end=True)
                await reports.recv_message()
        assert caught.value.status is Status.FAILED_PRECONDITION
        assert b.node.name not in (caught.value.message or "")
        await stream.cancel()
    assert len(fleet.control_plane.told("session opened", node=b.node.name)) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """What one replica does about the authority, with the rights of the manifest."""

    keeper: AuthorityKeeper
    files: TlsFiles
    scraper: ScraperKeeper


class Replicas:
    """Any number of them, on one clock, with a Secret of their own."""

    def __init__(self, client: KubeClient, directory: Path) -> None:
        self._client = client
        self._directory = directory
        self.clock = SteppedClock()

    def new(self, name: str) -> Replica:
        place = self._directory / name
        files = TlsFiles(cert=place / "tls.crt", key=place / "tls.key", ca=place / "ca.crt")
        keeper = AuthorityKeeper(
            store=SecretStore(client=self._client, namespace=NAMESPACE, name="kmm-ca"),
            trust=ConfigMapWriter(client=self._client, namespace=NAMESPACE, labels={}),
            trust_name="kmm-ca",
            files=files,
            hosts=("localhost",),
            life=LEAF,
            clock=self.clock,
        )
        scraper = ScraperKeeper(
            store=SecretStore(client=self._client, namespace=NAMESPACE, name="kmm-scraper"),
            authorities=keeper.authorities,
            name="prometheus.test",
            life=LEAF,
            clock=self.clock,
        )
        return Replica(keeper=keeper, files=files, scraper=scraper)


@pytest.fixture
async def replicas(empty_cluster: Cluster, tmp_path: Path) -> AsyncIterator[Replicas]:
    await asyncio.to_thread(prepare_authority, empty_cluster)
    kubeconfig = empty_cluster.kubeconfig_for(USER)
    client = await KubeClient.connect(kubeconfig, user_agent="test", field_manager="kmm-cp")
    try:
        yield Replicas(client, tmp_path)
    finally:
        await client.close()


@pytest.fixture(scope="module")
def empty_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Where no control plane runs that would keep an authority, too."""
    with running_cluster(tmp_path_factory.mktemp("empty")) as started:
        yield started


async def trusted(cluster: Cluster) -> set[int]:
    """Return the serial numbers of what daemons are told to trust."""
    pem = (await asyncio.to_thread(cluster.api.get, CONFIG_MAP))["data"]["ca.crt"].encode()
    return {one.serial_number for one in x509.load_pem_x509_certificates(pem)}


async def test_replicas_that_start_at_once_have_one_authority(
    empty_cluster: Cluster, replicas: Replicas
) -> None:
    started = [replicas.new(str(number)) for number in range(4)]
    async with asyncio.TaskGroup() as tasks:
        for each in started:
            tasks.create_task(each.keeper.look())
    (serial,) = {each.keeper.signer().certificate.serial_number for each in started}
    assert await trusted(empty_cluster) == {serial}
    (ca,) = {each.files.ca.read_bytes() for each in started}
    assert b"PRIVATE" not in ca
    for each in started:
        ServerTls(each.files)


async def test_authority_follows_another_with_overlap_in_every_replica(
    empty_cluster: Cluster, replicas: Replicas
) -> None:
    """Trusted a day before it signs, and a day longer than anything that it has signed."""
    one, other = replicas.new("one"), replicas.new("other")
    for each in (one, other):
        await each.keeper.prepare()
    first = one.keeper.signer().certificate.serial_number

    async def at(offset: timedelta) -> tuple[int, set[int]]:
        """Return who signs and who is trusted; the other replica comes to the same end."""
        replicas.clock.offset = offset
        for each in (one, other):
            await each.keeper.look()
        signing = {each.keeper.signer().certificate.serial_number for each in (one, other)}
        assert len(signing) == 1
        for each in (one, other):
            loaded = x509.load_pem_x509_certificates(each.files.ca.read_bytes())
            assert {c.serial_number for c in loaded} == await trusted(empty_cluster)
            ServerTls(each.files)
        return signing.pop(), await trusted(empty_cluster)

    assert await at(NEXT_AFTER - timedelta(hours=1)) == (first, {first})
    signs, known = await at(NEXT_AFTER + timedelta(hours=1))
    assert (signs, len(known)) == (first, 2)
    (second,) = known - {first}
    assert await at(NEXT_AFTER + timedelta(hours=24)) == (first, {first, second})
    assert await at(NEXT_AFTER + timedelta(hours=26)) == (second, {first, second})
    assert await at(NEXT_AFTER + timedelta(hours=26) + LEAF) == (second, {first, second})
    assert await at(NEXT_AFTER + timedelta(hours=50) + LEAF) == (second, {second})
    # A control plane that was switched off for longer than an authority lasts.
    signs, known = await at(NEXT_AFTER + 3 * LIFE)
    assert known == {signs}
    assert signs not in (first, second)


async def test_secret_that_is_emptied_brings_another_authority_and_daemons_enrol_anew(
    fleet: Fleet,
) -> None:
    mounts = await mounted(fleet)
    assert await mounts.enrol() == ""
    before = mounts.certificate()
    plane = fleet.control_plane
    await asyncio.to_thread(fleet.api.merge, SECRET, {"data": None})
    await asyncio.to_thread(plane.restart)
    assert "is not of an authority in" in await mounts.enrol()
    assert mounts.certificate() == before, "what is there stays until there is something new"
    await asyncio.to_thread(mounts.project)
    async with mounts.renewing(spread=0.0):
        await eventually(
            lambda: asyncio.to_thread(mounts.certificate), lambda now: now.issuer != before.issuer
        )
    await mounts.node.start(mounts.files)
    await fleet.apply()
    await fleet.loaded()


async def test_replicas_keep_one_certificate_for_prometheus_and_renew_it_in_time(
    empty_cluster: Cluster, replicas: Replicas
) -> None:
    component = MANIFESTS / "daemon-metrics/builtin-ca"
    files = (component / "scraper.yaml", rights.SCRAPER)
    for file in files:
        await asyncio.to_thread(empty_cluster.kubectl, "apply", "-f", str(file))
    started = [replicas.new(str(number)) for number in range(4)]
    for each in started:
        await each.keeper.prepare()

    async def after(offset: timedelta) -> x509.Certificate:
        """Have all replicas look at once; return the certificate, which is good with its files."""
        replicas.clock.offset = offset
        async with asyncio.TaskGroup() as tasks:
            for each in started:
                tasks.create_task(each.scraper.look())
        stored = (await asyncio.to_thread(empty_cluster.api.get, SCRAPER))["data"]
        data = {name: base64.b64decode(value) for name, value in stored.items()}
        (signer, *_) = x509.load_pem_x509_certificates(data["ca.crt"])
        certificate = x509.load_pem_x509_certificate(data["tls.crt"])
        certificate.verify_directly_issued_by(signer)
        key = load_pem_private_key(data["tls.key"], password=None)
        assert key.public_key() == certificate.public_key()
        return certificate

    first = await after(timedelta())
    assert await after(LEAF * 0.6) == first
    assert await after(LEAF * 0.7) != first
    # As a GitOps tool does again and again.
    before = await after(LEAF * 0.7)
    await asyncio.to_thread(empty_cluster.kubectl, "apply", "-f", str(files[0]))
    assert await after(LEAF * 0.7) == before
    # As an administrator does who wants another one at once.
    await asyncio.to_thread(empty_cluster.api.merge, SCRAPER, {"data": None})
    assert await after(LEAF * 0.7) != before


async def test_authority_that_somebody_spoilt_is_named_and_not_replaced(
    empty_cluster: Cluster, replicas: Replicas
) -> None:
    one = replicas.new("one")
    await one.keeper.prepare()
    spoilt = {"data": {"current.key": base64.b64encode(b"spoilt").decode()}}
    await asyncio.to_thread(empty_cluster.api.merge, SECRET, spoilt)
    with pytest.raises(AuthorityError, match=r"current.key: is no private key in PEM; remove all"):
        await one.keeper.look()
    one.keeper.signer()
    await asyncio.to_thread(empty_cluster.api.merge, SECRET, {"data": None})


async def test_control_plane_whose_api_server_is_away_is_alive_and_ready_once_it_is_back(
    plane: KmmCp, tmp_path: Path
) -> None:
    """A replica that has just started, and has no certificate to serve with yet."""
    replica = enrolling_control_plane(plane.cluster, tmp_path)
    replica.settings["replica"] = "early"
    async with proxied(plane.cluster, tmp_path, user=USER, groups=GROUPS) as (proxy, kubeconfig):
        replica.settings["kubeconfig"] = str(kubeconfig)
        await proxy.down()

        async def waiting() -> tuple[int, int]:
            """Start it; return what the kubelet is answered while it waits."""
            await asyncio.to_thread(replica.launch)
            await eventually(lambda: asyncio.to_thread(replica.told, "no authority yet"))
            return replica.probe("/healthz"), replica.probe("/readyz")

        try:
            assert await waiting() == (200, 503)
            assert await asyncio.to_thread(replica.stop) == 0
            replica.log.unlink()
            assert await waiting() == (200, 503)
            await proxy.up()
            await eventually(lambda: asyncio.to_thread(replica.is_ready))
            assert await asyncio.to_thread(replica.stop) == 0
        finally:
            replica.close()


def test_secret_that_is_not_there_ends_kmm_cp_with_code_1_and_what_to_create(
    plane: KmmCp, tmp_path: Path
) -> None:
    free = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0"}
    enrolment = {"secret": "not-there", "listen": "127.0.0.1:0"}
    config = tmp_path / "kmm-cp.yaml"
    config.write_text(yaml.safe_dump({**plane.settings, **free, "enrolment": enrolment}))
    argv = [sys.executable, "-m", "kmm_cp.cli", "--config", str(config)]
    # As shipped it may read its own Secret only, and waits for the right to another.
    plane.cluster.kubectl(*binding_command(NAMESPACE, f'User "{USER}"').split()[1:])
    try:
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    finally:
        plane.cluster.kubectl("delete", "rolebinding", ROLE, "--namespace", NAMESPACE)
    assert ended.returncode == 1
    assert f"no Secret {NAMESPACE}/not-there; create it, without data" in ended.stderr
    assert "Traceback" not in ended.stderr
