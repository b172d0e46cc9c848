"""Tells a Module what became of it on the nodes: counters, conditions, images, failures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kmm_common.api.module import Module
from kmm_common.api.names import Event
from kmm_common.clock import Clock
from kmm_cp.kube.client import KubeClient, Object
from kmm_cp.kube.events import EventRecorder, Regarding
from kmm_cp.kube.resources import MODULES
from kmm_cp.policy.digests import Digests
from kmm_cp.policy.failures import news
from kmm_cp.policy.module_status import Rules, module_status
from kmm_cp.policy.values import Node, NodeState
from kmm_cp.runtime.controller import DONE, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleStatusReconciler:
    """Key: namespace/name of the Module. Its queue hands a key out at most once in two seconds."""

    client: KubeClient
    events: EventRecorder
    modules: Mapping[str, Module]
    nodes: Mapping[str, Node]
    states: Mapping[str, NodeState]
    digests: Digests
    live: Callable[[str], bool]
    rules: Callable[[], Rules]
    observe: Callable[[Object], None]
    """Told every written Module, so that nothing is said twice before the watch brings it."""
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
            rules=self.rules(),
            now=self.clock.now(),
        )
        if status != module.status:
            await self._write(module, status)
        return DONE

    async def _write(self, module: Module, status: dict[str, Any]) -> None:
        """Write the status; what it says of failures for the first time is an event too."""
        namespace, name = module.metadata.namespace, module.metadata.name
        # A list is replaced whole: of a Module that has changed since, others' entries would go.
        seen = {"resourceVersion": module.metadata.resource_version}
        written = await self.client.patch_merge(
            MODULES,
            name,
            {"metadata": seen, "status": status},
            namespace=namespace,
            subresource="status",
        )
        self.observe(written)
        regarding = Regarding.module(namespace, name, module.metadata.uid)
        for failure in news(module.status, status):
            self.events.warning(regarding, Event.MODULE_FAILED, failure)
