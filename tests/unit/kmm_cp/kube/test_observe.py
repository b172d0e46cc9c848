"""What a cache makes of the answers to our own writes."""

from typing import Any

import pytest

from kmm_cp.kube.informer import Informer
from kmm_cp.kube.resources import MODULES
from support.kubecalls import KubeCalls
from support.virtualclock import VirtualClock


def written(version: int, **fields: str) -> dict[str, Any]:
    return {"metadata": {"name": "m", "namespace": "ns", "resourceVersion": str(version)}, **fields}


def event(kind: str, version: int) -> dict[str, Any]:
    return {"type": kind, "object": written(version)}


@pytest.fixture
async def informer() -> Informer[dict[str, Any]]:
    return Informer(KubeCalls(), MODULES, dict, clock=VirtualClock())


async def test_answer_is_seen_before_the_watch_brings_it(
    informer: Informer[dict[str, Any]],
) -> None:
    informer.observe(written(7, seen="answer"))
    assert informer.store["ns/m"]["seen"] == "answer"


async def test_answer_that_the_watch_has_overtaken_does_not_bring_an_object_back(
    informer: Informer[dict[str, Any]],
) -> None:
    for each in (event("ADDED", 5), event("MODIFIED", 7), event("DELETED", 8)):
        informer._take(each)
    informer.observe(written(7))
    assert dict(informer.store) == {}


async def test_older_event_does_not_undo_an_answer(informer: Informer[dict[str, Any]]) -> None:
    informer._take(event("ADDED", 5))
    informer.observe(written(9, seen="answer"))
    informer._take(event("MODIFIED", 8))
    assert informer.store["ns/m"]["seen"] == "answer"
