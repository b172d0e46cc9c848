"""Events on Nodes and Modules: one create each, in the background, never in anybody's way."""

import asyncio
import hashlib
import logging
from dataclasses import dataclass

from kmm_common.api import names
from kmm_common.clock import Clock, rfc3339
from kmm_common.errors import KmmError
from kmm_common.logs import log
from kmm_cp.kube.client import KubeClient, Object
from kmm_cp.kube.resources import EVENTS

logger = logging.getLogger(__name__)

_QUEUE = 10_000
_MESSAGE_CHARACTERS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Regarding:
    """The object that an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    @classmethod
    def node(cls, name: str, uid: str) -> "Regarding":
        return cls(api_version="v1", kind="Node", namespace="", name=name, uid=uid)

    @classmethod
    def pod(cls, namespace: str, name: str, uid: str) -> "Regarding":
        return cls(api_version="v1", kind="Pod", namespace=namespace, name=name, uid=uid)

    @classmethod
    def namespace_itself(cls, name: str) -> "Regarding":
        """Return a Namespace as the subject of an event that is kept in it."""
        return cls(api_version="v1", kind="Namespace", namespace=name, name=name, uid="")

    @classmethod
    def daemon_set(cls, namespace: str, name: str, uid: str) -> "Regarding":
        return cls(api_version="apps/v1", kind="DaemonSet", namespace=namespace, name=name, uid=uid)

    @classmethod
    def lease(cls, namespace: str, name: str) -> "Regarding":
        return cls(
            api_version="coordination.k8s.io/v1",
            kind="Lease",
            namespace=namespace,
            name=name,
            uid="",
        )

    @classmethod
    def module(cls, namespace: str, name: str, uid: str) -> "Regarding":
        return cls(
            api_version=names.API_VERSION, kind="Module", namespace=namespace, name=name, uid=uid
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    regarding: Regarding
    type: str
    reason: str
    message: str
    at: str


class EventRecorder:
    """Takes events without waiting; the oldest are kept, what does not fit is counted and lost."""

    def __init__(self, client: KubeClient, *, component: str, clock: Clock) -> None:
        self._client = client
        self._component = component
        self._clock = clock
        self._queue: asyncio.Queue[_Event] = asyncio.Queue(_QUEUE)
        self._serial = 0

    def normal(self, regarding: Regarding, reason: str, message: str) -> None:
        self._put(regarding, "Normal", reason, message)

    def warning(self, regarding: Regarding, reason: str, message: str) -> None:
        self._put(regarding, "Warning", reason, message)

    async def run(self) -> None:
        """Write events, until cancelled."""
        while True:
            await self._write(await self._queue.get())

    async def drain(self) -> None:
        """Write what is waiting."""
        while not self._queue.empty():
            await self._write(self._queue.get_nowait())

    def _put(self, regarding: Regarding, type_: str, reason: str, message: str) -> None:
        now = rfc3339(self._clock.now())
        text = message[:_MESSAGE_CHARACTERS]
        event = _Event(regarding=regarding, type=type_, reason=str(reason), message=text, at=now)
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            log(logger, logging.WARNING, "event dropped", reason=event.reason)

    async def _write(self, event: _Event) -> None:
        body = self._body(event)
        namespace = body["metadata"]["namespace"]
        try:
            await self._client.create(EVENTS, body, namespace=namespace)
        except KmmError as error:
            log(logger, logging.WARNING, "event not written", error=str(error))

    def _body(self, event: _Event) -> Object:
        regarding = event.regarding
        # Kubernetes keeps events of cluster-scoped objects in "default".
        namespace = regarding.namespace or "default"
        self._serial += 1
        token = f"{regarding.uid}{event.reason}{self._clock.monotonic()}{self._serial}"
        suffix = hashlib.sha256(token.encode()).hexdigest()[:16]
        involved = {
            "apiVersion": regarding.api_version,
            "kind": regarding.kind,
            "name": regarding.name,
            "uid": regarding.uid,
        }
        if regarding.namespace:
            involved["namespace"] = regarding.namespace
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{regarding.name[:200]}.{suffix}", "namespace": namespace},
            "involvedObject": involved,
            "type": event.type,
            "reason": event.reason,
            "message": event.message,
            "source": {"component": self._component},
            "firstTimestamp": event.at,
            "lastTimestamp": event.at,
            "count": 1,
        }
