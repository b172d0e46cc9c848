"""A node of a real cluster: Node and Pod objects, the real agent and link, a simulated kernel."""

import asyncio
import contextvars
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kmm_common.api.names import Reason
from kmm_common.backoff import Backoff
from kmm_common.clock import SystemClock
from kmm_common.desired import DesiredModule, ModuleRef
from kmm_common.logs import fields_of
from kmm_common.oci.credentials import RegistryCredential
from kmm_common.tls import PodIdentity, TlsFiles, pod_uri
from kmm_daemon.agent import Agent, Pace
from kmm_daemon.journal import Journal
from kmm_daemon.link.client import LinkClient
from kmm_daemon.metrics import Metrics
from kmm_daemon.values import ReadyImage
from kmm_sandbox.kubeapi import KubeApi, Object
from kmm_sandbox.pki import TRUST_DOMAIN
from support.certificates import NAMESPACE, SERVICE_ACCOUNT
from support.history import FACTS, Line
from support.kmmcp import KmmCp
from support.replicas import Replicas
from support.simkernel import SimImages, SimKernel, failure

NODES = "/api/v1/nodes"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_VERSION = "test"

_speaker: contextvars.ContextVar[list[Line]] = contextvars.ContextVar("speaker")
"""Where the facts go that the daemon of the current task logs."""


class _FactHandler(logging.Handler):
    """Files what the daemons of one process log by daemon."""

    def emit(self, record: logging.LogRecord) -> None:
        lines = _speaker.get(None)
        if lines is None or record.getMessage() not in FACTS:
            return
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        lines.append({"ts": moment, "msg": record.getMessage(), **fields_of(record)})


def collect_facts() -> None:
    """Let every SimNode know what its daemon logs; call it once a process."""
    logger = logging.getLogger("kmm_daemon")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _FactHandler) for handler in logger.handlers):
        logger.addHandler(_FactHandler())


class NodeImages(SimImages):
    """Notes pulls among the kernel's calls, and what credentials each pull was given.

    An image without a digest exists only if the test has put it into `digests`.
    """

    def __init__(self, node: "SimNode") -> None:
        super().__init__()
        self._node = node
        self.credentials: list[tuple[ModuleRef, Sequence[RegistryCredential]]] = []
        self.password = ""
        """If set, the registry takes no other."""

    async def prepare(self, module: DesiredModule) -> ReadyImage:
        self._node.kernel.calls.append(("prepare", module.ref))
        if module.pull_secret:
            assert self._node.link is not None
            given = await self._node.link.fetch(module.ref, refresh=False)
            self.credentials.append((module.ref, given))
            if self.password and self.password not in {one.password for one in given}:
                raise failure(Reason.IMAGE_UNAUTHORIZED, f"{module.image}: wrong password")
        if not module.image_digest and module.image not in self.digests:
            raise failure(Reason.IMAGE_NOT_FOUND, f"{module.image} does not exist")
        return await super().prepare(module)


@dataclass(slots=True, kw_only=True, eq=False)
class SimNode:
    """One node over restarts of its daemon, reboots and re-creation of its objects."""

    name: str
    labels: Mapping[str, str]
    api: KubeApi = field(repr=False)
    control_plane: KmmCp | Replicas = field(repr=False)
    directory: Path
    kernel: SimKernel = field(default_factory=SimKernel)
    retry: Backoff = field(default_factory=lambda: Backoff(0.3, 1.0))
    server_name: str = "localhost"
    """What the control plane's certificate must name."""
    lines: list[Line] = field(default_factory=list, repr=False)
    """The facts that its daemons logged."""
    link: LinkClient | None = None
    agent: Agent | None = None
    _journal: Journal | None = None
    _daemon: asyncio.Task[None] | None = None
    _linking: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.kernel.images = NodeImages(self)

    @property
    def images(self) -> NodeImages:
        assert isinstance(self.kernel.images, NodeImages)
        return self.kernel.images

    @property
    def running(self) -> bool:
        """Tell whether a daemon runs, or is about to, and wants a session."""
        runs = self._daemon is not None and not self._daemon.done()
        return runs and not (self._linking and self._linking.done())

    @property
    def path(self) -> str:
        return f"{NODES}/{self.name}"

    @property
    def pod(self) -> str:
        """Name of the daemon's Pod."""
        return f"kmm-daemon-{self.name}"

    def register(self) -> None:
        """Create Node and Pod, as kubelet and DaemonSet controller do."""
        self.api.create(NODES, {"metadata": {"name": self.name, "labels": dict(self.labels)}})
        self.say_status()
        self.register_pod()

    def register_pod(self) -> None:
        """Create the daemon's Pod."""
        self.api.ensure(PODS, self._pod())

    def unregister(self) -> None:
        """Delete Node and Pod."""
        self.api.delete(self.path)
        self.api.delete(f"{PODS}/{self.pod}")

    def say_status(self, *, ready: bool = True) -> None:
        """Write what a kubelet says of kernel, boot and readiness."""
        condition = {
            "type": "Ready",
            "status": str(ready),
            "reason": "Test",
            "message": "",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        info = {"kernelVersion": self.kernel.kernel_version, "bootID": self.kernel.boot_id}
        status = {"conditions": [condition], "nodeInfo": {"architecture": "amd64", **info}}
        self.api.merge(f"{self.path}/status", {"status": status})

    def certificate(self) -> TlsFiles:
        """Issue a certificate for the Pod that there is now."""
        uid = self.api.get(f"{PODS}/{self.pod}")["metadata"]["uid"]
        identity = PodIdentity(
            namespace=NAMESPACE, service_account=SERVICE_ACCOUNT, name=self.pod, uid=uid
        )
        return self.control_plane.certificates.uris(pod_uri(identity, TRUST_DOMAIN))

    async def start(self, certificate: TlsFiles | None = None) -> None:
        """Start the daemon."""
        if certificate is None:
            certificate = await asyncio.to_thread(self.certificate)
        boot = self.directory / self.kernel.boot_id
        boot.mkdir(parents=True, exist_ok=True)
        metrics, clock = Metrics(version="test"), SystemClock()
        self._journal = Journal(boot, self.kernel.boot_id)
        self.agent = Agent(
            images=self.kernel.images,
            kernel=self.kernel,
            journal=self._journal,
            clock=clock,
            metrics=metrics,
            pace=Pace(drift_check=0.5, busy_check=0.2, retry=self.retry),
        )
        self.link = LinkClient(
            f"127.0.0.1:{self.control_plane.port}",
            files=certificate,
            holder=self.agent,
            told=metrics,
            clock=clock,
            version=_VERSION,
            server_name=self.server_name,
            backoff=Backoff(0.1, 0.5),
        )
        context = contextvars.copy_context()
        context.run(_speaker.set, self.lines)
        self._linking = None
        main = self._main(self.agent, self.link)
        self._daemon = asyncio.create_task(main, name=f"daemon {self.name}", context=context)

    async def stop(self) -> None:
        """End the daemon as SIGKILL would: nothing is tidied up."""
        # Forgotten first: who waits for its end may be cancelled meanwhile.
        daemon, self._daemon = self._daemon, None
        if daemon is not None:
            daemon.cancel()
            await asyncio.gather(daemon, return_exceptions=True)
        if self._journal is not None:
            self._journal.close()

    async def restart(self) -> None:
        """Start the daemon anew; the kernel stays as it is."""
        await self.stop()
        await self.start()

    async def go_down(self, *, kernel: str = "") -> None:
        """Switch the node off; its kernel is empty and has a new boot id when it is back."""
        await self.stop()
        number = int(self.kernel.boot_id.rpartition("-")[2])
        self.kernel.reboot(f"boot-{number + 1}")
        self.kernel.kernel_version = kernel or self.kernel.kernel_version

    async def come_up(self) -> None:
        """Let the kubelet say what has booted, and start the daemon."""
        await asyncio.to_thread(self.say_status)
        await self.start()

    async def reboot(self, *, kernel: str = "") -> None:
        await self.go_down(kernel=kernel)
        await self.come_up()

    async def silence(self) -> None:
        """Cut the session for good; the agent goes on by itself."""
        assert self._linking is not None
        self._linking.cancel()
        await asyncio.gather(self._linking, return_exceptions=True)

    async def _main(self, agent: Agent, link: LinkClient) -> None:
        await agent.start()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(agent.run(), name=f"agent {self.name}")
            self._linking = tasks.create_task(link.run(), name=f"link {self.name}")

    def _pod(self) -> Object:
        spec: dict[str, Any] = {
            "nodeName": self.name,
            "serviceAccountName": SERVICE_ACCOUNT,
            "automountServiceAccountToken": False,
            "containers": [{"name": "daemon", "image": "example.test/kmm-daemon:1"}],
            "tolerations": [{"operator": "Exists"}],
            # No kubelet says that the Pod has ended.
            "terminationGracePeriodSeconds": 0,
        }
        return {"metadata": {"name": self.pod}, "spec": spec}
