"""What is written of events, and what is given up."""

import asyncio
import logging
from typing import Any

import pytest

from kmm_cp.kube.errors import TooManyRequestsError, UnavailableError
from kmm_cp.kube.events import EventRecorder, Regarding
from support.kubecalls import KubeCalls
from support.virtualclock import VirtualClock, rest

NODE = Regarding.node("n", "uid-n")


@pytest.fixture
def client() -> KubeCalls:
    return KubeCalls()


@pytest.fixture
async def recorder(client: KubeCalls) -> EventRecorder:
    return EventRecorder(client, component="kmm", clock=VirtualClock())


@pytest.mark.parametrize(
    ("regarding", "namespace", "involved"),
    [
        (NODE, "default", {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "uid-n"}),
        (
            Regarding.module("ns", "m", "uid-m"),
            "ns",
            {
                "apiVersion": "kmm.sigs.x-k8s.io/v1beta1",
                "kind": "Module",
                "name": "m",
                "namespace": "ns",
                "uid": "uid-m",
            },
        ),
        (
            Regarding.pod("ns", "p", "uid-p"),
            "ns",
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": "ns", "uid": "uid-p"},
        ),
        (
            Regarding.namespace_itself("ns"),
            "ns",
            {"apiVersion": "v1", "kind": "Namespace", "name": "ns", "namespace": "ns", "uid": ""},
        ),
    ],
    ids=["node", "module", "pod", "namespace"],
)
async def test_event_is_created_beside_what_it_is_about(
    recorder: EventRecorder,
    client: KubeCalls,
    regarding: Regarding,
    namespace: str,
    involved: dict[str, str],
) -> None:
    recorder.warning(regarding, "Reason", "text")
    await recorder.drain()
    call = client.only()
    assert (call.verb, call.resource, call.namespace) == ("create", "events", namespace)
    body: dict[str, Any] = call.body
    assert body["involvedObject"] == involved
    assert (body["type"], body["reason"], body["message"]) == ("Warning", "Reason", "text")
    assert body["firstTimestamp"] == body["lastTimestamp"] == "2026-01-01T00:00:00Z"
    assert (body["count"], body["source"]) == (1, {"component": "kmm"})


async def test_equal_events_have_names_of_their_own(
    recorder: EventRecorder, client: KubeCalls
) -> None:
    for _ in range(3):
        recorder.normal(NODE, "Reason", "text")
    await recorder.drain()
    names = {call.name for call in client.calls}
    assert len(names) == 3
    assert all(name.startswith("n.") for name in names)


async def test_name_and_message_have_a_bound(recorder: EventRecorder, client: KubeCalls) -> None:
    recorder.normal(Regarding.node("n" * 253, "uid"), "Reason", "x" * 5000)
    await recorder.drain()
    assert len(client.only().name) <= 253
    assert len(client.only().body["message"]) == 1024


async def test_events_that_do_not_fit_are_dropped_and_told_of(
    recorder: EventRecorder,
    client: KubeCalls,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("kmm_cp.kube.events._QUEUE", 2)
    small = EventRecorder(client, component="kmm", clock=VirtualClock())
    for reason in "abc":
        small.normal(NODE, reason, "text")
    await small.drain()
    assert [call.body["reason"] for call in client.calls] == ["a", "b"]
    assert [each.getMessage() for each in caplog.records] == ["event dropped"]


async def test_event_that_is_refused_does_not_keep_the_next_one_back(
    recorder: EventRecorder, client: KubeCalls, caplog: pytest.LogCaptureFixture
) -> None:
    client.errors.extend([TooManyRequestsError("busy"), UnavailableError("away")])
    writing = asyncio.create_task(recorder.run())
    for reason in "abc":
        recorder.normal(NODE, reason, "text")
    await rest()
    assert client.only().body["reason"] == "c"
    recorder.normal(NODE, "d", "text")
    await rest()
    assert [call.body["reason"] for call in client.calls] == ["c", "d"]
    assert [each.levelno for each in caplog.records] == [logging.WARNING] * 2
    writing.cancel()
    await asyncio.wait([writing])
