"""Nodes whose daemons' Pods are the DaemonSet's, with the parts of scheduler and kubelets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from kmm_sandbox.kubeapi import Object
from support.fleet import Fleet, eventually
from support.simnode import NODES, PODS, SimNode

_OF_DAEMONS = f"{PODS}?labelSelector=app.kubernetes.io/name=kmm-daemon"
_NOW = {"gracePeriodSeconds": 0}
_READY = {
    "phase": "Running",
    "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ],
}


@dataclass(slots=True, kw_only=True, eq=False)
class PodNode(SimNode):
    """A node whose daemon runs when the DaemonSet's controller has made a Pod for it."""

    pod_name: str = ""
    """Of the daemon that runs."""
    starts: int = 0
    """How many daemons it has had."""

    @property
    def pod(self) -> str:
        return self.pod_name

    def register(self) -> None:
        """Create the Node alone."""
        labels = {"kubernetes.io/os": "linux", **self.labels}
        self.api.create(NODES, {"metadata": {"name": self.name, "labels": labels}})
        self.say_status()

    def unregister(self) -> None:
        """Delete the Node, then its Pod: the DaemonSet's controller makes no other one."""
        self.api.delete(self.path)
        if self.pod_name:
            self.api.delete(f"{PODS}/{self.pod_name}", options=_NOW)


@asynccontextmanager
async def kubelets(fleet: Fleet) -> AsyncIterator[None]:
    """Start and end daemons as the API server says of their Pods, until the end of the block."""
    task = asyncio.create_task(_follow(fleet), name="kubelets")
    try:
        yield
        assert not task.done(), task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _follow(fleet: Fleet) -> None:
    while True:
        for pod in await asyncio.to_thread(fleet.api.items, _OF_DAEMONS):
            if "deletionTimestamp" in pod["metadata"]:
                await _end(fleet, pod)
            elif "nodeName" not in pod["spec"]:
                await _begin(fleet, pod)
        await asyncio.sleep(0.1)


async def _begin(fleet: Fleet, pod: Object) -> None:
    """Bind a Pod to the node that it is meant for, and run the daemon there."""
    (term,) = _required(pod)["nodeSelectorTerms"]
    (node_name,) = term["matchFields"][0]["values"]
    name = pod["metadata"]["name"]
    target = {"metadata": {"name": name}, "target": {"kind": "Node", "name": node_name}}
    await asyncio.to_thread(fleet.api.create, f"{PODS}/{name}/binding", target)
    await asyncio.to_thread(fleet.api.merge, f"{PODS}/{name}/status", {"status": _READY})
    node = _of(fleet, node_name)
    node.pod_name = name
    node.starts += 1
    await node.start()


def _required(pod: Object) -> Object:
    affinity: Object = pod["spec"]["affinity"]["nodeAffinity"]
    required: Object = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    return required


async def _end(fleet: Fleet, pod: Object) -> None:
    """End a Pod's daemon, and say so."""
    name = pod["metadata"]["name"]
    if node_name := pod["spec"].get("nodeName"):
        node = _of(fleet, node_name)
        if node.pod_name == name:
            await node.stop()
            node.pod_name = ""
    await asyncio.to_thread(lambda: fleet.api.delete(f"{PODS}/{name}", options=_NOW))


def _of(fleet: Fleet, node_name: str) -> PodNode:
    (node,) = [each for each in fleet.nodes.values() if each.name == node_name]
    assert isinstance(node, PodNode)
    return node


async def started(node: SimNode, times: int) -> None:
    """Wait until a node has had so many daemons, and one runs."""
    assert isinstance(node, PodNode)
    await eventually(
        lambda: asyncio.sleep(0, (node.starts, bool(node.pod_name))),
        lambda seen: seen == (times, True),
        what=f"daemon {times} of {node.name}",
    )
