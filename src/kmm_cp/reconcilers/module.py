"""Holds a Module's deletion back until its module is out of every kernel that can be reached."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kmm_common.api import names
from kmm_common.api.module import Module
from kmm_common.api.names import Event
from kmm_common.clock import Clock
from kmm_common.logs import log
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.events import EventRecorder, Regarding
from kmm_cp.kube.resources import MODULES
from kmm_cp.policy.deletion import waits_for
from kmm_cp.policy.module_status import Rules
from kmm_cp.policy.values import Node, NodeState
from kmm_cp.runtime.controller import DONE, Result

logger = logging.getLogger(__name__)

_RECHECK_SECONDS = 30.0
"""A node may go over the limit of disconnection without any object changing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleReconciler:
    """Key: namespace/name of the Module."""

    client: KubeClient
    modules: Mapping[str, Module]
    nodes: Mapping[str, Node]
    states: Mapping[str, NodeState]
    events: EventRecorder
    live: Callable[[str], bool]
    rules: Callable[[], Rules]
    clock: Clock
    _released: dict[str, str] = field(default_factory=dict)
    """uid by key: the cache shows a Module for a moment after it was let go."""

    async def reconcile(self, key: str) -> Result:
        module = self.modules.get(key)
        if module is None:
            self._released.pop(key, None)
            return DONE
        if not module.deleting:
            await self._protect(module)
            return DONE
        return await self._release(module)

    async def _protect(self, module: Module) -> None:
        """Add the finalizer."""
        finalizers = module.metadata.finalizers
        if names.MODULE_FINALIZER not in finalizers:
            await self._write_finalizers(module, [*finalizers, names.MODULE_FINALIZER])

    async def _release(self, module: Module) -> Result:
        released = self._released.get(str(module.ref)) == module.metadata.uid
        if released or names.MODULE_FINALIZER not in module.metadata.finalizers:
            return DONE
        waits = waits_for(
            module,
            self.nodes,
            self.states.values(),
            live=self.live,
            now=self.clock.now(),
            disconnected_seconds=self.rules().disconnected_seconds,
        )
        if waits:
            return Result(requeue_after=_RECHECK_SECONDS)
        left = [f for f in module.metadata.finalizers if f != names.MODULE_FINALIZER]
        await self._write_finalizers(module, left)
        self._released[str(module.ref)] = module.metadata.uid
        log(logger, logging.INFO, "module released", module=str(module.ref))
        # One event for all nodes: a fleet's worth of them would say no more.
        regarding = Regarding.module(
            module.metadata.namespace, module.metadata.name, module.metadata.uid
        )
        text = f"Module {module.ref} unloaded from the kernel of every node that is connected"
        self.events.normal(regarding, Event.MODULE_UNLOADED, text)
        return DONE

    async def _write_finalizers(self, module: Module, finalizers: list[str]) -> None:
        metadata: dict[str, Any] = {
            "finalizers": finalizers,
            "resourceVersion": module.metadata.resource_version,
        }
        await self.client.patch_merge(
            MODULES,
            module.metadata.name,
            {"metadata": metadata},
            namespace=module.metadata.namespace,
        )
