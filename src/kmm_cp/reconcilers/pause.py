"""Says on a NodeModulesState that its Node is paused."""

from collections.abc import Mapping
from dataclasses import dataclass

from kmm_common.clock import Clock
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.resources import NODE_MODULES_STATES
from kmm_cp.policy.pause import conditions_to_write
from kmm_cp.policy.values import Node, NodeState
from kmm_cp.runtime.controller import DONE, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseReconciler:
    """Key: the node's name. Nobody else changes the condition Paused there."""

    client: KubeClient
    nodes: Mapping[str, Node]
    states: Mapping[str, NodeState]
    clock: Clock

    async def reconcile(self, name: str) -> Result:
        node, state = self.nodes.get(name), self.states.get(name)
        if node is None or state is None:
            return DONE
        conditions = conditions_to_write(node, state, self.clock.now())
        if conditions is not None:
            # A list is replaced whole: of a status that has changed since, the rest would go.
            seen = {"resourceVersion": state.resource_version}
            await self.client.patch_merge(
                NODE_MODULES_STATES,
                name,
                {"metadata": seen, "status": {"conditions": conditions}},
                subresource="status",
            )
        return DONE
