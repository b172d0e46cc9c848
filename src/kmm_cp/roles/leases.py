"""The Lease by which replicas elect their leader, and those by which each says that it lives."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

from kmm_common.api.names import LABEL_DOMAIN, Event
from kmm_common.clock import Clock
from kmm_cp.kube.client import KubeClient, Object
from kmm_cp.kube.errors import AlreadyExistsError, ConflictError, NotFoundError
from kmm_cp.kube.events import EventRecorder, Regarding
from kmm_cp.kube.resources import LEASES
from kmm_cp.roles.metrics import Metrics
from kmm_cp.runtime.election import ChangedError, Record

LEASE_VERSION = "coordination.k8s.io/v1"
REPLICA_PREFIX = "kmm-replica-"
REPLICA_LABELS = {"app.kubernetes.io/part-of": "kmm", f"{LABEL_DOMAIN}/lease": "replica"}


def record_of(lease: Mapping[str, Any]) -> Record:
    """Decode a coordination.k8s.io/v1 Lease; what people wrote into it is taken as it is."""
    spec = lease.get("spec") or {}
    return Record(
        holder=spec.get("holderIdentity") or "",
        duration=float(spec.get("leaseDurationSeconds") or 0),
        transitions=spec.get("leaseTransitions") or 0,
        stamp=spec.get("renewTime") or "",
    )


@dataclass(slots=True, kw_only=True)
class LeaseRecords:
    """runtime.candidate.Records in one Lease, written under the version that was seen."""

    client: KubeClient
    namespace: str
    name: str
    clock: Clock
    _last: Object | None = field(default=None, repr=False)
    """As it was read or written last."""

    async def read(self) -> Record | None:
        try:
            self._last = await self.client.get(LEASES, self.name, namespace=self.namespace)
        except NotFoundError:
            self._last = None
            return None
        return record_of(self._last)

    async def write(self, record: Record) -> Record:
        try:
            self._last = await self._write(self._last, record)
        except (AlreadyExistsError, ConflictError, NotFoundError) as error:
            raise ChangedError(str(error), reason=error.reason) from error
        return record_of(self._last)

    async def _write(self, last: Object | None, record: Record) -> Object:
        if last is None:
            body = {
                "apiVersion": LEASE_VERSION,
                "kind": "Lease",
                "metadata": {"name": self.name, "namespace": self.namespace},
                "spec": self._spec({}, record),
            }
            return await self.client.create(LEASES, body, namespace=self.namespace)
        # Whatever others have put there is sent back verbatim.
        body = {**last, "spec": self._spec(last.get("spec") or {}, record)}
        return await self.client.replace(LEASES, self.name, body, namespace=self.namespace)

    def _spec(self, before: Mapping[str, Any], record: Record) -> Object:
        now = _micro_time(self.clock)
        same_term = before.get("leaseTransitions") == record.transitions
        return {
            **before,
            "holderIdentity": record.holder,
            "leaseDurationSeconds": math.ceil(record.duration),
            "leaseTransitions": record.transitions,
            "acquireTime": before.get("acquireTime", now) if same_term else now,
            "renewTime": now,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLeases:
    """serving.presence.Beats of one replica, and what the leader makes of those of all.

    Each replica has a Lease of its own, which nobody competes for.
    """

    client: KubeClient
    namespace: str
    replica: str
    clock: Clock

    async def beat(self) -> bool:
        name, spec = f"{REPLICA_PREFIX}{self.replica}", {"renewTime": _micro_time(self.clock)}
        try:
            await self.client.patch_merge(LEASES, name, {"spec": spec}, namespace=self.namespace)
        except NotFoundError:
            labels, holder = REPLICA_LABELS, {"holderIdentity": self.replica}
            body = {
                "apiVersion": LEASE_VERSION,
                "kind": "Lease",
                "metadata": {"name": name, "namespace": self.namespace, "labels": labels},
                "spec": {**spec, **holder},
            }
            await self.client.create(LEASES, body, namespace=self.namespace)
            return True
        return False

    async def end(self) -> None:
        await self.clear(self.replica)

    async def signs(self) -> Mapping[str, str]:
        """Return the time of each replica's newest beat, as it wrote it."""
        selector = ",".join(f"{key}={value}" for key, value in REPLICA_LABELS.items())
        found: dict[str, str] = {}
        pages = self.client.pages(LEASES, namespace=self.namespace, label_selector=selector)
        async for page in pages:
            for lease in page["items"]:
                replica = lease["metadata"]["name"].removeprefix(REPLICA_PREFIX)
                found[replica] = record_of(lease).stamp
        return found

    async def clear(self, replica: str) -> None:
        """Delete a replica's Lease, if it is there."""
        name = f"{REPLICA_PREFIX}{replica}"
        with contextlib.suppress(NotFoundError):
            await self.client.delete(LEASES, name, namespace=self.namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcer:
    """runtime.candidate.Observer: the event that Kubernetes' own components make, and a metric."""

    events: EventRecorder
    metrics: Metrics
    replica: str
    namespace: str
    lease: str

    def leads(self) -> None:
        self.metrics.elected()
        regarding = Regarding.lease(self.namespace, self.lease)
        self.events.normal(regarding, Event.LEADER_ELECTION, f"{self.replica} became leader")


def _micro_time(clock: Clock) -> str:
    """Return the present as a metav1.MicroTime."""
    return clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
