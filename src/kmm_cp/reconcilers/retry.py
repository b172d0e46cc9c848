"""Lets a failed Module be tried again when its pull Secret, or what its tag stands for, changes."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from kmm_common.api.module import Module
from kmm_common.api.names import PULL_SECRET_ANNOTATION
from kmm_common.desired import DesiredModule
from kmm_common.logs import log
from kmm_cp.kube.client import KubeClient, Object
from kmm_cp.kube.resources import MODULES
from kmm_cp.policy.retries import images_in_doubt, is_told, secret_to_follow
from kmm_cp.policy.values import NodeState
from kmm_cp.runtime.controller import DONE, Result

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How often a Secret is looked at, while pulls with it fail."""


class SecretVersions(Protocol):
    """Who knows the versions of Secrets."""

    async def version(self, namespace: str, name: str) -> str:
        """Return a Secret's resourceVersion; empty if it is not there, or not to be read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryReconciler:
    """Key: namespace/name of the Module. Neither Secrets nor tags can be watched: see ADR 19."""

    client: KubeClient
    modules: Mapping[str, Module]
    states: Mapping[str, NodeState]
    secrets: SecretVersions
    look_again: Callable[[DesiredModule], Awaitable[None]]
    """Has a registry asked anew what an image stands for."""
    observe: Callable[[Object], None]
    """Told every written Module."""

    async def reconcile(self, key: str) -> Result:
        module = self.modules.get(key)
        if module is None or not module.status.get("failures"):
            return DONE
        secret = secret_to_follow(module)
        doubtful = images_in_doubt(module, self.states.values())
        if secret:
            await self._follow(module, secret)
        for entry in doubtful:
            await self.look_again(entry)
        return Result(requeue_after=LOOK_SECONDS) if secret or doubtful else DONE

    async def _follow(self, module: Module, secret: str) -> None:
        """Tell the nodes, by the Module, of a version of the Secret that they may not have had."""
        namespace, name = module.metadata.namespace, module.metadata.name
        version = await self.secrets.version(namespace, secret)
        if is_told(module, version):
            return
        log(logger, logging.INFO, "pull secret is tried anew", ref=str(module.ref), secret=secret)
        annotations = {PULL_SECRET_ANNOTATION: version}
        body = {"metadata": {"annotations": annotations}}
        self.observe(await self.client.patch_merge(MODULES, name, body, namespace=namespace))
