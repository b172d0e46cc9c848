"""Marks the namespaces that have Modules, which must not go before them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from kmm_common.api import names
from kmm_common.api.module import Module
from kmm_common.desired import ModuleRef
from kmm_cp.kube.client import KubeClient, Object
from kmm_cp.kube.resources import NAMESPACES
from kmm_cp.runtime.controller import DONE, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceReconciler:
    """Key: the namespace's name."""

    client: KubeClient
    modules: Mapping[str, Module]
    unreadable: Collection[str]
    """Keys of the Modules that are there, but cannot be decoded."""
    namespaces: Mapping[str, Mapping[str, str]]
    """Labels by namespace."""
    observe: Callable[[Object], None]
    """Told every written Namespace, so that it is not written again before the watch does."""

    async def reconcile(self, name: str) -> Result:
        labels = self.namespaces.get(name)
        marked = labels is not None and names.CONTAINS_MODULES_LABEL in labels
        contains = self._contains_modules(name)
        if contains != marked:
            await self._write(name, "" if contains else None)
        return DONE

    def _contains_modules(self, namespace: str) -> bool:
        keys = (*self.modules, *self.unreadable)
        return any(ModuleRef.parse(key).namespace == namespace for key in keys)

    async def _write(self, name: str, value: str | None) -> None:
        body = {"metadata": {"labels": {names.CONTAINS_MODULES_LABEL: value}}}
        self.observe(await self.client.patch_merge(NAMESPACES, name, body))
