"""Says of a node that no replica has served for a while: not connected."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kmm_common.clock import Clock, rfc3339
from kmm_cp.kube.client import KubeClient, Object
from kmm_cp.kube.errors import InvalidError
from kmm_cp.kube.resources import NODE_MODULES_STATES
from kmm_cp.policy.values import NodeState
from kmm_cp.runtime.controller import DONE, Result

UNSERVED_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionReconciler:
    """Key: the node's name. The only writer of `connected: false`."""

    client: KubeClient
    states: Mapping[str, NodeState]
    live: Callable[[str], bool]
    clock: Clock
    _unserved_since: dict[str, float] = field(default_factory=dict)

    async def reconcile(self, name: str) -> Result:
        state = self.states.get(name)
        if state is None or not state.daemon.connected or self.live(name):
            self._unserved_since.pop(name, None)
            return DONE
        now = self.clock.monotonic()
        left = self._unserved_since.setdefault(name, now) + UNSERVED_SECONDS - now
        if left > 0:
            return Result(requeue_after=left)
        await self._disconnect(state)
        del self._unserved_since[name]
        return DONE

    async def _disconnect(self, state: NodeState) -> None:
        """Write under a test of the session: one that was claimed meanwhile stays connected."""
        operations: list[Object] = [
            {"op": "test", "path": "/status/daemon/instance", "value": state.daemon.instance},
            {"op": "add", "path": "/status/daemon/connected", "value": False},
            {"op": "add", "path": "/status/daemon/since", "value": rfc3339(self.clock.now())},
        ]
        try:
            await self.client.patch_json(
                NODE_MODULES_STATES, state.name, operations, subresource="status"
            )
        except InvalidError:
            return
