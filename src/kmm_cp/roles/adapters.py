"""The serving side's and the resolver's ports, over informers and client."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.errors import ForbiddenError, NotFoundError
from kmm_cp.kube.resources import CONFIG_MAPS, NODE_MODULES_STATES, SECRETS
from kmm_cp.policy.pullsecrets import SecretForbiddenError
from kmm_cp.policy.values import NodeState
from kmm_cp.serving.ports import PodFacts
from kmm_cp.serving.values import Target


def pod_facts(pod: Mapping[str, Any]) -> PodFacts:
    """Decode a v1 Pod as the API server gives it."""
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    owners = metadata.get("ownerReferences") or ()
    controllers = (owner for owner in owners if owner.get("controller"))
    return PodFacts(
        uid=metadata["uid"],
        service_account=spec.get("serviceAccountName", ""),
        node=spec.get("nodeName", ""),
        deleting="deletionTimestamp" in metadata,
        owner=next((f"{owner['kind']}/{owner['name']}" for owner in controllers), ""),
        created=metadata.get("creationTimestamp", ""),
    )


def target_of(state: NodeState | None) -> Target | None:
    """Return a NodeModulesState as daemons are told it; None for one that somebody edited."""
    if state is None or not state.intact:
        return None
    return Target(uid=state.uid, generation=state.generation, modules=state.modules)


@dataclass(frozen=True, slots=True)
class PodCache:
    """serving.ports.Pods over the informer of daemon Pods."""

    pods: Mapping[str, PodFacts]

    def lookup(self, namespace: str, name: str) -> PodFacts | None:
        return self.pods.get(f"{namespace}/{name}")


@dataclass(frozen=True, slots=True)
class StateReader:
    """serving.ports.States over informer and client."""

    client: KubeClient
    states: Mapping[str, NodeState]

    def cached(self, node: str) -> Target | None:
        return target_of(self.states.get(node))

    async def read(self, node: str) -> Target | None:
        try:
            found = await self.client.get(NODE_MODULES_STATES, node)
        except NotFoundError:
            return None
        return target_of(NodeState.from_object(found))


@dataclass(frozen=True, slots=True)
class SecretReader:
    """Reads Secrets, decoded; nothing is kept. Raises SecretForbiddenError."""

    client: KubeClient

    async def read(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        try:
            secret = await self.client.get(SECRETS, name, namespace=namespace)
        except NotFoundError:
            return None
        except ForbiddenError as error:
            raise SecretForbiddenError(namespace, name, refusal=str(error)) from error
        data = secret.get("data") or {}
        return {key: base64.b64decode(value) for key, value in data.items()}

    async def version(self, namespace: str, name: str) -> str:
        """Return a Secret's resourceVersion without its content; empty if it cannot be read."""
        try:
            found = await self.client.get_metadata(SECRETS, name, namespace=namespace)
        except (NotFoundError, ForbiddenError):
            return ""
        return str(found["metadata"]["resourceVersion"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigMapWriter:
    """serving.served.ConfigMaps in the operator's namespace."""

    client: KubeClient
    namespace: str
    labels: Mapping[str, str]

    async def apply(self, name: str, data: Mapping[str, str]) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": self.namespace, "labels": dict(self.labels)},
            "data": dict(data),
        }
        try:
            await self.client.patch_merge(
                CONFIG_MAPS, name, {"data": dict(data)}, namespace=self.namespace
            )
        except NotFoundError:
            await self.client.create(CONFIG_MAPS, body, namespace=self.namespace)

    async def delete(self, name: str) -> None:
        try:
            await self.client.delete(CONFIG_MAPS, name, namespace=self.namespace)
        except NotFoundError:
            return
