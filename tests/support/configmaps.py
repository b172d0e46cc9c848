"""ConfigMaps of a real API server, and an informer of them behind a fault proxy."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from kmm_common.backoff import Backoff
from kmm_common.clock import SystemClock
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.informer import Change, Informer, Pace
from kmm_cp.kube.resources import CONFIG_MAPS
from kmm_sandbox.kubeapi import KubeApi
from support.cluster import Cluster
from support.faultproxy import FaultProxy, proxied
from support.fleet import eventually

NAME = "configmaps"
LABELS = {"kmm-test": "informers"}
SELECTOR = "kmm-test=informers"
QUICK = Pace(page=3, inactivity=2.0, short=0.1, backoff=Backoff(0.05, 0.2, jitter=0.5))
PATIENT = 90.0

_numbers = count(1)


class NotingClock(SystemClock):
    """Notes what it is asked to wait for, in seconds."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await super().sleep(seconds)


def decode(content: dict[str, Any]) -> str:
    return str(content["data"]["value"])


@dataclass(slots=True, kw_only=True)
class Scene:
    """A namespace of ConfigMaps, and an informer of them behind a proxy."""

    api: KubeApi
    namespace: str
    proxy: FaultProxy
    client: KubeClient
    changes: list[Change[str]] = field(default_factory=list)
    """All changes that the informer told of."""
    clock: NotingClock = field(default_factory=NotingClock)

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps"

    def key(self, name: str) -> str:
        return f"{self.namespace}/{name}"

    def put(self, name: str, value: str = "1") -> None:
        """Create a ConfigMap."""
        metadata = {"name": name, "labels": LABELS}
        self.api.create(self.path, {"metadata": metadata, "data": {"value": value}})

    def edit(self, name: str, value: str) -> None:
        self.api.merge(f"{self.path}/{name}", {"data": {"value": value}})

    def delete(self, name: str) -> None:
        self.api.delete(f"{self.path}/{name}")

    def truth(self) -> dict[str, str]:
        """Return what the server has."""
        items = self.api.items(f"{self.path}?labelSelector={SELECTOR}")
        return {self.key(item["metadata"]["name"]): decode(item) for item in items}

    def told(self, name: str) -> list[tuple[str | None, str | None]]:
        """Return what the informer told of a ConfigMap: before and after."""
        return [(each.old, each.new) for each in self.changes if each.key == self.key(name)]

    def lists(self) -> int:
        """Return how often the whole collection was read."""
        lists = [call.query for call in self.proxy.seen("list", NAME)]
        return sum("continue" not in query and query["limit"] != "1" for query in lists)

    @asynccontextmanager
    async def informing(self, pace: Pace = QUICK) -> AsyncIterator[Informer[str]]:
        """Run an informer."""
        informer = Informer(
            self.client,
            CONFIG_MAPS,
            decode,
            clock=self.clock,
            namespace=self.namespace,
            label_selector=SELECTOR,
            pace=pace,
        )
        informer.add_handler(self.changes.append)
        running = asyncio.create_task(informer.run(), name="informer")
        try:
            yield informer
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def watched(self, informer: Informer[str]) -> None:
        """Wait until the cache is complete and a watch goes on from it."""
        await eventually(
            lambda: asyncio.sleep(0, informer.synced.is_set() and self.proxy.streams(NAME)),
            what="a watch",
            seconds=PATIENT,
        )

    async def equal(self, informer: Informer[str]) -> None:
        """Wait until the cache is what the server has, after one more change of it."""
        fence = f"fence-{next(_numbers)}"
        await asyncio.to_thread(self.put, fence, "1")
        truth = await asyncio.to_thread(self.truth)
        await eventually(
            lambda: asyncio.sleep(0, dict(informer.store)),
            lambda cache: cache == truth,
            what=f"cache = {truth}",
            seconds=PATIENT,
        )


@asynccontextmanager
async def running_scene(cluster: Cluster, directory: Path) -> AsyncIterator[Scene]:
    """Give a test its namespace, its proxy and a client that goes through it."""
    namespace = f"configmaps-{next(_numbers)}"
    path = f"/api/v1/namespaces/{namespace}"
    await asyncio.to_thread(
        cluster.api.ensure, "/api/v1/namespaces", {"metadata": {"name": namespace}}
    )
    through = proxied(cluster, directory, user="informer", groups=["system:masters"])
    async with through as (proxy, kubeconfig):
        client = await KubeClient.connect(kubeconfig, user_agent="test", field_manager="test")
        try:
            yield Scene(api=cluster.api, namespace=namespace, proxy=proxy, client=client)
        finally:
            await client.close()
            await asyncio.to_thread(cluster.api.delete, path)


@asynccontextmanager
async def at_rest(scene: Scene, *names: str) -> AsyncIterator[Informer[str]]:
    """Run an informer that has some ConfigMaps and watches."""
    for name in names:
        await asyncio.to_thread(scene.put, name)
    async with scene.informing() as informer:
        await scene.watched(informer)
        yield informer


async def change_all(scene: Scene) -> None:
    """Delete a, change b, make c."""
    await asyncio.to_thread(scene.delete, "a")
    await asyncio.to_thread(scene.edit, "b", "2")
    await asyncio.to_thread(scene.put, "c")


def assert_told_of_all(scene: Scene) -> None:
    assert scene.told("a") == [(None, "1"), ("1", None)]
    assert scene.told("b") == [(None, "1"), ("1", "2")]
    assert scene.told("c") == [(None, "1")]
