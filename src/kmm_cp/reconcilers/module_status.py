"""Tells a Module what became of it on the nodes: counters, conditions, images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kmm_common.api.module import Module
from kmm_common.clock import Clock
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.resources import MODULES
from kmm_cp.policy.digests import Digests
from kmm_cp.policy.module_status import Rules, module_status
from kmm_cp.policy.values import Node, NodeState
from kmm_cp.runtime.controller import DONE, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleStatusReconciler:
    """Key: namespace/name of the Module. Its queue hands a key out at most once in two seconds."""

    client: KubeClient
    modules: Mapping[str, Module]
    nodes: Mapping[str, Node]
    states: Mapping[str, NodeState]
    digests: Digests
    live: Callable[[str], bool]
    rules: Rules
    clock: Clock

    async def reconcile(self, key: str) -> Result:
        module = self.modules.get(key)
        if module is None:
            return DONE
        status = module_status(
            module,
            self.nodes.values(),
            self.states,
            self.digests,
            live=self.live,
            rules=self.rules,
            now=self.clock.now(),
        )
        if status != module.status:
            await self.client.patch_merge(
                MODULES,
                module.metadata.name,
                {"status": status},
                namespace=module.metadata.namespace,
                subresource="status",
            )
        return DONE
