"""The serving side on loopback, with the rest of the control plane simulated."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpclib.client import Stream
from grpclib.const import Cardinality

from kmm_common.clock import Clock, SystemClock
from kmm_common.desired import DesiredModule, content_hash
from kmm_common.errors import TransientError
from kmm_common.tls import PodIdentity, ServerTls, TlsFiles, client_context
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_cp.serving.credentials import PullCredentials
from kmm_cp.serving.fragments import Fragments
from kmm_cp.serving.identity import DaemonPods, Identities
from kmm_cp.serving.listener import Listener
from kmm_cp.serving.notifier import Notifier
from kmm_cp.serving.ports import PodFacts, Refusal
from kmm_cp.serving.sender import Claim, Sender
from kmm_cp.serving.service import Limits, NodeLink
from kmm_cp.serving.sessions import Session, Sessions
from kmm_cp.serving.turns import Turns
from kmm_cp.serving.updates import Kind
from kmm_cp.serving.values import Report, Target
from kmm_daemon.link.channel import LinkChannel
from kmm_daemon.link.trouble import Endpoint
from kmm_sandbox.pki import TRUST_DOMAIN
from support.certificates import NAMESPACE, SERVICE_ACCOUNT, Certificates, pod_of

DEADLINE = 60.0


def facts(node: str, *, scheduled: str | None = None, **changes: Any) -> PodFacts:
    """Return what the API server says about the pod of a node's daemon."""
    known = {
        "uid": pod_of(node).uid,
        "service_account": SERVICE_ACCOUNT,
        "node": node if scheduled is None else scheduled,
        "deleting": False,
        "owner": "DaemonSet/kmm-daemon",
    }
    return PodFacts(**{**known, **changes})


def target(generation: int, *modules: DesiredModule, uid: str = "nms-1") -> Target:
    """Return a desired state."""
    return Target(uid=uid, generation=generation, modules=modules)


@dataclass
class World:
    """What the serving side asks the rest of the control plane, and what it tells it."""

    pods: dict[str, PodFacts] = field(default_factory=dict)
    cache: dict[str, Target] = field(default_factory=dict)
    persisted: dict[str, Target] = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)
    """Pods that have the sessions of nodes, with whichever replica."""
    reads: list[str] = field(default_factory=list)
    unreachable: bool = False
    claims: dict[str, Claim] = field(default_factory=dict)
    claimed: list[tuple[str, str]] = field(default_factory=list)
    reports: list[tuple[str, Report]] = field(default_factory=list)
    closed_sessions: list[str] = field(default_factory=list)
    secrets: dict[tuple[str, str], Mapping[str, bytes]] = field(default_factory=dict)
    secret_reads: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    sent_kinds: list[Kind] = field(default_factory=list)
    flapped: list[str] = field(default_factory=list)
    behind: list[tuple[str, str, int]] = field(default_factory=list)

    def lookup(self, namespace: str, name: str) -> PodFacts | None:
        return self.pods.get(name) if namespace == NAMESPACE else None

    def cached(self, node: str) -> Target | None:
        return self.cache.get(node)

    async def read(self, node: str) -> Target | None:
        self.reads.append(node)
        if self.unreachable:
            raise TransientError("the API server is away")
        return self.persisted.get(node)

    async def claim(self, session: Session, uid: str) -> Claim:
        self.claimed.append((session.node, uid))
        return self.claims.get(session.node, Claim.HELD)

    def report(self, session: Session, report: Report) -> None:
        self.reports.append((session.node, report))

    def closed(self, session: Session) -> None:
        self.closed_sessions.append(session.node)

    def refused(self, identity: PodIdentity | None, refusal: Refusal, message: str) -> None:
        self.refusals.append(refusal)

    def turned_away(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    def flapping(self, node: str, takeovers: int) -> None:
        self.flapped.append(node)

    def sent(self, kind: Kind) -> None:
        self.sent_kinds.append(kind)

    def ahead(self, node: str, uid: str, generation: int) -> None:
        self.behind.append((node, uid, generation))


class SecretsOf:
    """The Secrets of a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def read(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        self._world.secret_reads.append(f"{namespace}/{name}")
        await asyncio.sleep(0)
        return self._world.secrets.get((namespace, name))


class Serving:
    """One replica; `world` is what it sees."""

    def __init__(
        self,
        certificates: Certificates,
        *,
        clock: Clock,
        limits: Limits | None,
        send_seconds: float,
        keepalive: float,
        port: int,
    ) -> None:
        self.world = World()
        self.ready = True
        self.clock = clock
        self.certificates = certificates
        self.sessions = Sessions(clock=clock, observer=self.world)
        self.notifier = Notifier(self.sessions)
        self.tls = ServerTls(certificates.server())
        identities = Identities(
            pods=self.world,
            daemons=DaemonPods(namespace=NAMESPACE, service_account=SERVICE_ACCOUNT),
            trust_domain=TRUST_DOMAIN,
            observer=self.world,
            holder=lambda node: self.world.holders.get(node, ""),
        )
        sender = Sender(
            states=self.world,
            claims=self.world,
            fragments=Fragments(),
            observer=self.world,
            clock=clock,
            turns=Turns(),
            send_seconds=send_seconds,
        )
        secrets = SecretsOf(self.world)
        self.service = NodeLink(
            identities=identities,
            sessions=self.sessions,
            sender=sender,
            reports=self.world,
            credentials=PullCredentials(states=self.world, secrets=secrets, clock=clock),
            ready=lambda: self.ready,
            clock=clock,
            limits=limits,
        )
        self.listener = Listener(
            f"127.0.0.1:{port}",
            service=self.service,
            sessions=self.sessions,
            server_tls=self.tls,
            observer=self.world,
            clock=clock,
            keepalive=keepalive,
            keepalive_timeout=keepalive,
        )

    @property
    def port(self) -> int:
        return self.listener.port

    def node(self, name: str, desired: Target | None = None) -> TlsFiles:
        """Add a node with its daemon's pod; return the certificate of that."""
        self.world.pods[pod_of(name).name] = facts(name)
        if desired is not None:
            self.publish(name, desired)
        return self.certificates.daemon(name)

    def publish(self, node: str, desired: Target) -> None:
        """Persist a desired state and let the informer know."""
        before = self.world.cache.get(node)
        self.world.cache[node] = self.world.persisted[node] = desired
        self.notifier.changed(node, before, desired)


@asynccontextmanager
async def serving(
    directory: Path,
    *,
    clock: Clock | None = None,
    limits: Limits | None = None,
    send_seconds: float = 10.0,
    keepalive: float = 30.0,
    port: int = 0,
    certificates: Certificates | None = None,
) -> AsyncIterator[Serving]:
    """Serve until the end of the block."""
    replica = Serving(
        certificates or Certificates(directory),
        clock=clock or SystemClock(),
        limits=limits,
        send_seconds=send_seconds,
        keepalive=keepalive,
        port=port,
    )
    await replica.listener.start()
    try:
        yield replica
    finally:
        await replica.listener.drain(0)
        await asyncio.sleep(0.01)


@asynccontextmanager
async def dialled(
    port: int, files: TlsFiles, *, server_name: str = "localhost"
) -> AsyncIterator[LinkChannel]:
    """Connect as a daemon would."""
    endpoint = Endpoint(host="127.0.0.1", port=port, server_name=server_name, files=files)
    channel = LinkChannel(endpoint, context=client_context(files))
    try:
        yield channel
    finally:
        channel.close()
        await asyncio.sleep(0.01)


Watch = Stream[pb.WatchRequest, pb.Update]


def watch(channel: LinkChannel) -> Watch:
    """Return a Watch that is not opened yet."""
    return channel.request(
        "/kmm.v1.NodeLink/Watch", Cardinality.UNARY_STREAM, pb.WatchRequest, pb.Update
    )


def report(channel: LinkChannel) -> Stream[pb.ReportMessage, pb.ReportSummary]:
    """Return a Report that is not opened yet."""
    return channel.request(
        "/kmm.v1.NodeLink/Report", Cardinality.STREAM_UNARY, pb.ReportMessage, pb.ReportSummary
    )


def request(
    *,
    instance: str = "instance-1",
    uid: str = "",
    generation: int = 0,
    modules: Sequence[DesiredModule] = (),
    **changes: Any,
) -> pb.WatchRequest:
    """Return a greeting; with a uid, of a daemon that has journaled the modules."""
    known = {
        "protocol_version": 1,
        "instance": instance,
        "boot_id": "boot-1",
        "kernel_version": "6.1.0",
        "daemon_version": "0.1.0",
        "uid": uid,
        "generation": generation,
        "content_hash": content_hash(modules) if uid else b"",
        "state": pb.StateReport(),
    }
    return pb.WatchRequest(**{**known, **changes})


async def next_update(stream: Watch) -> pb.Update:
    """Return the next update, which must come."""
    async with asyncio.timeout(DEADLINE):
        update = await stream.recv_message()
        if update is None:
            await stream.recv_trailing_metadata()
    assert update is not None
    return update


async def until(condition: Any) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)
