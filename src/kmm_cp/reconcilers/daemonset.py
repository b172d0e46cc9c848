"""Makes the daemon's DaemonSet of its template, and keeps it so."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kmm_common.api.names import Event
from kmm_common.errors import TerminalError, TransientError
from kmm_cp.kube.client import KubeClient, Object
from kmm_cp.kube.errors import NotFoundError
from kmm_cp.kube.events import EventRecorder, Regarding
from kmm_cp.kube.resources import DAEMON_SETS, DEPLOYMENTS
from kmm_cp.policy import daemonset
from kmm_cp.policy.daemonset import Wish
from kmm_cp.runtime.controller import DONE, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSetReconciler:
    """There is one key."""

    client: KubeClient
    events: EventRecorder
    wish: Wish
    templates: Mapping[str, Mapping[str, Any]]
    daemon_sets: Mapping[str, Mapping[str, Any]]
    observe: Callable[[Object], None]
    """Told the written DaemonSet, so that it is not written again before the watch does."""

    async def reconcile(self, _key: str) -> Result:
        wish = self.wish
        template = self.templates.get(f"{wish.namespace}/{wish.template}")
        if template is None:
            raise TerminalError(
                f"there is no PodTemplate {wish.template} in namespace {wish.namespace}: the"
                " DaemonSet stays as it is until one is applied",
                reason="NoTemplate",
            )
        owner, current = await self._owner(), self.daemon_sets.get(f"{wish.namespace}/{wish.name}")
        if _is_going(owner) or (current and _is_going(current)):
            return DONE
        uid = owner["metadata"]["uid"]
        if current is None:
            body = daemonset.new(wish, template, uid)
            written = await self.client.create(DAEMON_SETS, body, namespace=wish.namespace)
            self._tell(written, f"made of PodTemplate {wish.template}")
        elif (changed := daemonset.update(wish, template, uid, current)) is not None:
            written = await self.client.replace(
                DAEMON_SETS, wish.name, changed, namespace=wish.namespace
            )
            self._tell(written, f"is again what PodTemplate {wish.template} and the settings say")
        return DONE

    async def _owner(self) -> Object:
        wish = self.wish
        try:
            return await self.client.get(DEPLOYMENTS, wish.deployment, namespace=wish.namespace)
        except NotFoundError as error:
            raise TransientError(
                f"there is no Deployment {wish.deployment} in namespace {wish.namespace} to own the"
                " daemon's DaemonSet: set `deployment` to the control plane's",
                reason="NoDeployment",
            ) from error

    def _tell(self, written: Object, what: str) -> None:
        self.observe(written)
        uid = written["metadata"].get("uid", "")
        regarding = Regarding.daemon_set(self.wish.namespace, self.wish.name, uid)
        self.events.normal(regarding, Event.DAEMON_SET_WRITTEN, f"DaemonSet {what}")


def _is_going(content: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in content["metadata"]
