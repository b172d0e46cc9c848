"""Keeps a node's ready labels true to its persisted status, and says so in events."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kmm_common.api.module import Module
from kmm_common.api.names import Event
from kmm_common.desired import ModuleRef
from kmm_common.logs import Fact, log
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.events import EventRecorder, Regarding
from kmm_cp.kube.resources import NODES
from kmm_cp.policy.labels import LabelChange, label_change
from kmm_cp.policy.values import Node, NodeState
from kmm_cp.runtime.controller import DONE, Result

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReconciler:
    """Key: the node's name."""

    client: KubeClient
    events: EventRecorder
    modules: Mapping[str, Module]
    nodes: Mapping[str, Node]
    states: Mapping[str, NodeState]
    live: Callable[[str], bool]
    """Tells whether a replica holds a session of the node."""

    async def reconcile(self, name: str) -> Result:
        node = self.nodes.get(name)
        if node is None:
            return DONE
        state = self.states.get(name)
        change = label_change(node, state, live=self.live(name))
        if change.patch:
            boot = node.boot_id or (state.status.boot_id if state else "")
            await self._patch(node, change, boot)
        return DONE

    async def _patch(self, node: Node, change: LabelChange, boot: str) -> None:
        """Patch under the Node's resourceVersion: a replica that is behind cannot restore a lie."""
        metadata = {"resourceVersion": node.resource_version, "labels": dict(change.patch)}
        await self.client.patch_merge(NODES, node.name, {"metadata": metadata})
        log(
            logger,
            logging.INFO,
            Fact.LABELLED,
            node=node.name,
            boot_id=boot,
            added=[str(ref) for ref in change.added],
            removed=[str(ref) for ref in change.removed],
        )
        for ref in change.added:
            self._tell(node, Event.MODULE_LOADED, f"Module {ref} loaded into the kernel")
        # A Module that is deleted says it once for all nodes, when it is gone from them.
        for ref in filter(self._stays, change.removed):
            self._tell(node, Event.MODULE_UNLOADED, f"Module {ref} unloaded from the kernel")

    def _stays(self, ref: ModuleRef) -> bool:
        module = self.modules.get(str(ref))
        return module is not None and not module.deleting

    def _tell(self, node: Node, reason: Event, message: str) -> None:
        self.events.normal(Regarding.node(node.name, node.uid), reason, message)
