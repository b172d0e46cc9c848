"""The election's record, and signs of life, as Leases."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from kmm_common.errors import TransientError
from kmm_cp.kube.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
)
from kmm_cp.kube.resources import Resource
from kmm_cp.roles.leases import Announcer, LeaseRecords, ReplicaLeases, record_of
from kmm_cp.roles.metrics import Metrics
from kmm_cp.runtime.election import ChangedError, Record
from support.kubecalls import Call, EventCalls, KubeCalls, Told
from support.virtualclock import VirtualClock

RECORD = Record(holder="a", duration=14.2, transitions=2)
NOW = "2026-01-01T00:00:00.000000Z"
THEIRS = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": "kmm-cp", "resourceVersion": "7", "annotations": {"their": "own"}},
    "spec": {
        "holderIdentity": "b",
        "leaseDurationSeconds": 15,
        "leaseTransitions": 1,
        "acquireTime": "2025-12-31T00:00:00.000000Z",
        "renewTime": "2025-12-31T23:59:59.000000Z",
        "strategy": "OldestEmulationVersion",
    },
}


class Leases(KubeCalls):
    """Pages, too."""

    async def pages(self, resource: Resource, **where: Any) -> AsyncGenerator[dict[str, Any], None]:
        assert where["label_selector"].endswith("lease=replica")
        yield {"items": list(self.objects.values())}

    async def get(self, resource: Resource, name: str, *, namespace: str = "") -> dict[str, Any]:
        self._fail()
        if name not in self.objects:
            raise NotFoundError("gone")
        return self.objects[name]


def records(client: KubeCalls) -> LeaseRecords:
    return LeaseRecords(client=client, namespace="ns", name="kmm-cp", clock=VirtualClock())


async def test_record_that_is_not_there_is_created() -> None:
    client = Leases()
    store = records(client)
    assert await store.read() is None
    written = await store.write(RECORD)
    call = client.only()
    assert (call.verb, call.resource, call.namespace) == ("create", "leases", "ns")
    assert call.body["spec"] == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "leaseTransitions": 2,
        "acquireTime": NOW,
        "renewTime": NOW,
    }
    assert written == Record(holder="a", duration=15.0, transitions=2, stamp=NOW)


async def test_record_is_written_under_the_version_that_was_seen_with_all_of_others() -> None:
    client = Leases(objects={"kmm-cp": THEIRS})
    store = records(client)
    assert await store.read() == record_of(THEIRS)
    await store.write(RECORD)
    body = client.only().body
    assert body["metadata"] == THEIRS["metadata"]
    assert body["spec"]["strategy"] == "OldestEmulationVersion"
    assert body["spec"]["acquireTime"] == NOW
    await store.write(RECORD)
    again = client.calls[1].body
    assert again["metadata"]["resourceVersion"] == "1000"


async def test_renewal_keeps_the_time_of_the_election() -> None:
    client = Leases(objects={"kmm-cp": THEIRS})
    store = records(client)
    await store.read()
    await store.write(Record(holder="b", duration=15.0, transitions=1))
    assert client.only().body["spec"]["acquireTime"] == "2025-12-31T00:00:00.000000Z"


@pytest.mark.parametrize("error", [AlreadyExistsError, ConflictError, NotFoundError])
async def test_record_that_is_not_what_was_seen_is_told_apart(error: type[Exception]) -> None:
    client = Leases()
    client.errors.append(error("no"))  # type: ignore[arg-type]
    with pytest.raises(ChangedError):
        await records(client).write(RECORD)


async def test_other_errors_are_as_they_are() -> None:
    client = Leases()
    client.errors.append(ForbiddenError("no right"))
    with pytest.raises(TransientError, match="no right") as caught:
        await records(client).read()
    assert not isinstance(caught.value, ChangedError)


@pytest.mark.parametrize("spec", [None, {}, {"holderIdentity": None, "renewTime": None}])
def test_lease_that_somebody_emptied_is_a_released_one(spec: Any) -> None:
    assert record_of({"spec": spec}) == Record(holder="", duration=0.0, transitions=0)


async def test_sign_of_life_is_a_patch_and_made_where_it_is_not_there() -> None:
    client = Leases()
    leases = ReplicaLeases(client=client, namespace="ns", replica="a", clock=VirtualClock())
    assert await leases.beat() is False
    patch = Call("patch", "leases", "kmm-replica-a", {"spec": {"renewTime": NOW}}, "ns")
    assert client.only() == patch
    client.errors.append(NotFoundError("gone"))
    assert await leases.beat() is True
    made = client.calls[1]
    assert (made.verb, made.body["spec"]["holderIdentity"]) == ("create", "a")
    client.objects = {"x": {**made.body}}
    assert await leases.signs() == {"a": NOW}


async def test_end_of_a_replica_that_is_gone_already_is_no_failure() -> None:
    client = Leases()
    leases = ReplicaLeases(client=client, namespace="ns", replica="a", clock=VirtualClock())
    await leases.end()
    assert client.only() == Call("delete", "leases", "kmm-replica-a", None, "ns")
    client.errors.append(NotFoundError("gone"))
    await leases.end()


def test_new_leader_is_told_and_counted() -> None:
    events, metrics = EventCalls(), Metrics(version="1")
    Announcer(events=events, metrics=metrics, replica="a", namespace="ns", lease="kmm-cp").leads()
    told = Told("Normal", "Lease", "kmm-cp", "LeaderElection", "a became leader")
    assert events.told == [told]
    assert b"kmm_cp_leader_terms_total 1.0" in metrics.exposition()
    metrics.watch_leading(lambda: True)
    assert b"kmm_cp_leader 1.0" in metrics.exposition()
