"""A control plane with an authority of its own, and what daemons enrol with there."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509

from kmm_common.clock import SystemClock
from kmm_common.tls import TlsFiles
from kmm_cp.serving.token import AUDIENCE
from kmm_daemon.app import ran
from kmm_daemon.link.renewal import Enrolling, Renewal
from kmm_sandbox.kubeapi import KubeApi, Object
from support import rights
from support.certificates import NAMESPACE, SERVICE_ACCOUNT
from support.cluster import Cluster
from support.kmmcp import KmmCp, new_control_plane, prepare_cluster
from support.link import Told
from support.simnode import PODS, SimNode

SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/kmm-ca"
CONFIG_MAP = f"/api/v1/namespaces/{NAMESPACE}/configmaps/kmm-ca"
AUTHORITY = Path(__file__).resolve().parents[2] / "manifests/builtin-ca/authority.yaml"


def prepare_authority(cluster: Cluster) -> None:
    """Make what an administrator makes: rights, the Secret and the ConfigMap."""
    prepare_cluster(cluster)
    cluster.kubectl("apply", "-f", str(AUTHORITY), "-f", str(rights.ENROLMENT))


def enrolling_control_plane(cluster: Cluster, directory: Path) -> KmmCp:
    """Return a control plane that makes its own certificates; it is not started yet."""
    prepare_authority(cluster)
    made = new_control_plane(cluster, directory)
    tls = directory / "tls"
    made.settings["tls"] = {name: str(tls / f"{name}.pem") for name in ("cert", "key", "ca")}
    made.settings["enrolment"] = {
        "listen": made.ports.address(),
        "server_names": ["localhost"],
    }
    return made


@contextmanager
def running_enrolling(cluster: Cluster, directory: Path) -> Iterator[KmmCp]:
    """Run one until the end of the block; it must have had the rights it needs."""
    plane = enrolling_control_plane(cluster, directory)
    try:
        plane.start()
        yield plane
        assert plane.stop() == 0
        assert plane.refusals() == set()
    finally:
        plane.close()


def token(
    api: KubeApi,
    pod: Object | None,
    *,
    audience: str = AUDIENCE,
    account: str = SERVICE_ACCOUNT,
    namespace: str = NAMESPACE,
) -> str:
    """Return a token as the kubelet gets it for a projected volume; None: bound to no Pod."""
    spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": 600}
    if pod is not None:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    answer = api.create(path, {"spec": spec})
    return str(answer["status"]["token"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounts:
    """What the Pod of a node's daemon has mounted."""

    node: SimNode
    plane: KmmCp
    directory: Path
    told: Told = field(default_factory=Told)

    @property
    def files(self) -> TlsFiles:
        tls = self.directory / "tls"
        return TlsFiles(cert=tls / "tls.crt", key=tls / "tls.key", ca=self.directory / "ca.crt")

    @property
    def token(self) -> Path:
        return self.directory / "token"

    def project(self) -> None:
        """Write token and authorities as the kubelet does."""
        self.directory.mkdir(parents=True, exist_ok=True)
        api = self.node.api
        self.token.write_text(token(api, api.get(f"{PODS}/{self.node.pod}")))
        self.files.ca.write_text(api.get(CONFIG_MAP)["data"]["ca.crt"])

    @property
    def enrolling(self) -> Enrolling:
        return Enrolling(
            server=str(self.plane.settings["enrolment"]["listen"]),
            server_name="localhost",
            token=self.token,
            files=self.files,
        )

    async def enrol(self) -> str:
        """Run the daemon's program; return what went wrong."""
        return await ran(self.enrolling.argv)

    @asynccontextmanager
    async def renewing(self, *, spread: float = 1.0) -> AsyncIterator[Renewal]:
        """Do as the daemon does by itself, until the end of the block."""
        renewal = Renewal(
            self.enrolling,
            run=ran,
            told=self.told,
            observer=_Uncounted(),
            clock=SystemClock(),
            spread=spread,
        )
        task = asyncio.create_task(renewal.run(), name="renewal")
        try:
            yield renewal
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.files.cert.read_bytes())


class _Uncounted:
    def enrolled(self, *, ok: bool) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Answer:
    """What the port of enrolment says."""

    status: int
    body: str
    headers: str


async def post(plane: KmmCp, content: bytes, *, ca: Path) -> Answer:
    """Send bytes to the port of enrolment over TLS, without a certificate."""
    reader, writer = await dialled_port(plane, ca)
    try:
        writer.write(content)
        async with asyncio.timeout(30):
            answer = await reader.read()
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    head, _, body = answer.decode().partition("\r\n\r\n")
    return Answer(int(head.split()[1]), body, head)


async def hang_up(plane: KmmCp, content: bytes, *, ca: Path) -> None:
    """Send bytes, and go away before there is an answer."""
    _, writer = await dialled_port(plane, ca)
    writer.write(content)
    await writer.drain()
    writer.transport.abort()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def dialled_port(
    plane: KmmCp, ca: Path, *, host: str = "127.0.0.1"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect from an address of this machine, with TLS and without a certificate."""
    there, _, port = str(plane.settings["enrolment"]["listen"]).rpartition(":")
    context = ssl.create_default_context(cafile=str(ca))
    return await asyncio.open_connection(
        there, int(port), ssl=context, server_hostname="localhost", local_addr=(host, 0)
    )
