"""Writes the desired state of one node: the only writer of NodeModulesState.spec."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kmm_common.api import names
from kmm_common.api.module import Module
from kmm_common.api.nodemodulesstate import spec_hash, spec_to_json
from kmm_common.clock import Clock
from kmm_common.desired import DesiredModule, ModuleRef
from kmm_common.logs import Fact, log
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.resources import NODE_MODULES_STATES
from kmm_cp.policy.digests import Digests
from kmm_cp.policy.plan import plan_node
from kmm_cp.policy.values import Node, NodeState
from kmm_cp.reconcilers.live import Live
from kmm_cp.runtime.controller import DONE, Result

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReconciler:
    """Key: the node's name."""

    client: KubeClient
    modules: Mapping[str, Module]
    unreadable: Collection[str]
    """Keys of the Modules that are there, but cannot be decoded."""
    nodes: Mapping[str, Node]
    states: Mapping[str, NodeState]
    digests: Digests
    live: Live
    observe: Callable[[dict[str, Any]], None]
    """Told every written object, so that the next reconcile sees it before the watch does."""
    clock: Clock

    async def reconcile(self, name: str) -> Result:
        node = self.nodes.get(name)
        # The API server's garbage collector removes the NodeModulesState of a Node that is gone.
        if node is None:
            return DONE
        state = self.states.get(name)
        plan = plan_node(
            node,
            self.modules.values(),
            state,
            self.digests,
            self.clock.now(),
            unreadable={ModuleRef.parse(key) for key in self.unreadable},
        )
        if plan.modules is not None:
            await self._write(node, state, plan.modules)
        return Result(requeue_after=plan.requeue_after)

    async def _write(
        self, node: Node, state: NodeState | None, modules: tuple[DesiredModule, ...]
    ) -> None:
        if state is None:
            if (
                node.deleting
            ):  # A finalizer of others may hold it: what is on it is still looked after.
                return
            if modules or _labelled(node) or self.live(node.name):
                await self._create(node, modules)
        elif state.modules != modules or state.owner_uid != node.uid or not state.intact:
            await self._replace(node, state, modules)

    async def _create(self, node: Node, modules: tuple[DesiredModule, ...]) -> None:
        """Create with the whole spec in one write: what exists is always complete."""
        metadata = {"name": node.name, "ownerReferences": [_owner(node)]}
        body = _object(metadata, modules)
        self._published(node, await self.client.create(NODE_MODULES_STATES, body), modules)

    async def _replace(
        self, node: Node, state: NodeState, modules: tuple[DesiredModule, ...]
    ) -> None:
        """PUT with the cached resourceVersion, everybody else's metadata sent back verbatim."""
        others = [o for o in state.metadata.get("ownerReferences", []) if o["kind"] != "Node"]
        metadata = {**state.metadata, "ownerReferences": [*others, _owner(node)]}
        body = _object(metadata, modules)
        written = await self.client.replace(NODE_MODULES_STATES, node.name, body)
        self._published(node, written, modules)

    def _published(
        self, node: Node, written: dict[str, Any], modules: tuple[DesiredModule, ...]
    ) -> None:
        self.observe(written)
        metadata = written["metadata"]
        told = [
            {"ref": str(m.ref), "digest": m.image_digest, "hash": m.config_hash} for m in modules
        ]
        log(
            logger,
            logging.INFO,
            Fact.PUBLISHED,
            node=node.name,
            uid=metadata["uid"],
            generation=metadata["generation"],
            modules=told,
        )


def _labelled(node: Node) -> bool:
    """Tell whether the node carries a ready label: its daemon must then be asked for the truth."""
    return any(names.parse_ready_label(key) for key in node.labels)


def _object(metadata: dict[str, Any], modules: tuple[DesiredModule, ...]) -> dict[str, Any]:
    annotations = metadata.get("annotations") or {}
    signed = {**annotations, names.SPEC_HASH_ANNOTATION: spec_hash(modules)}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "NodeModulesState",
        "metadata": {**metadata, "annotations": signed},
        "spec": spec_to_json(modules),
    }


def _owner(node: Node) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}
