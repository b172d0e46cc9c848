"""The API server's client and the recorder of events, in memory: they note what they are told."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kmm_common.errors import KmmError
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.events import EventRecorder, Regarding
from kmm_cp.kube.resources import Resource

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One writing request."""

    verb: str
    resource: str
    """With its subresource: nodes/status."""
    name: str
    body: Any = None
    namespace: str = ""
    uid: str = ""
    """The precondition of a delete."""


@dataclass(slots=True)
class KubeCalls(KubeClient):
    """Answers every write with what was written, as version 1000 and up, or with an error."""

    calls: list[Call] = field(default_factory=list)
    errors: deque[KmmError] = field(default_factory=deque)
    """What the next requests raise."""
    objects: dict[str, Object] = field(default_factory=dict)
    """What get() finds, by name."""

    async def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        self._fail()
        return self.objects[name]

    async def get_metadata(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        return await self.get(resource, name, namespace=namespace)

    async def create(self, resource: Resource, body: Object, *, namespace: str = "") -> Object:
        name = body["metadata"]["name"]
        return self._take(Call("create", resource.plural, name, body, namespace))

    async def replace(
        self, resource: Resource, name: str, body: Object, *, namespace: str = ""
    ) -> Object:
        return self._take(Call("replace", resource.plural, name, body, namespace))

    async def patch_merge(
        self,
        resource: Resource,
        name: str,
        body: Object,
        *,
        namespace: str = "",
        subresource: str = "",
    ) -> Object:
        where = "/".join(part for part in (resource.plural, subresource) if part)
        return self._take(Call("patch", where, name, body, namespace))

    async def patch_json(
        self,
        resource: Resource,
        name: str,
        operations: list[Object],
        *,
        namespace: str = "",
        subresource: str = "",
    ) -> Object:
        where = "/".join(part for part in (resource.plural, subresource) if part)
        return self._take(Call("patch", where, name, operations, namespace))

    async def delete(
        self, resource: Resource, name: str, *, namespace: str = "", uid: str = ""
    ) -> Object:
        return self._take(Call("delete", resource.plural, name, None, namespace, uid))

    def only(self) -> Call:
        """Return the one call that was made."""
        (call,) = self.calls
        return call

    def _take(self, call: Call) -> Object:
        self._fail()
        self.calls.append(call)
        body = call.body if isinstance(call.body, Mapping) else {}
        version = str(999 + len(self.calls))
        given = {"uid": f"uid-of-{call.name}", "generation": 1}
        metadata = {**given, **body.get("metadata", {}), "name": call.name}
        return {**body, "metadata": {**metadata, "resourceVersion": version}}

    def _fail(self) -> None:
        if self.errors:
            raise self.errors.popleft()


@dataclass(frozen=True, slots=True)
class Told:
    """One event."""

    type: str
    kind: str
    name: str
    reason: str
    message: str


@dataclass(slots=True)
class EventCalls(EventRecorder):
    """Keeps what is told."""

    told: list[Told] = field(default_factory=list)

    drained: int = 0
    """How many of them were waited for."""

    async def drain(self) -> None:
        self.drained = len(self.told)

    def normal(self, regarding: Regarding, reason: str, message: str) -> None:
        self._add("Normal", regarding, reason, message)

    def warning(self, regarding: Regarding, reason: str, message: str) -> None:
        self._add("Warning", regarding, reason, message)

    def _add(self, type_: str, regarding: Regarding, reason: str, message: str) -> None:
        self.told.append(Told(type_, regarding.kind, regarding.name, str(reason), message))
