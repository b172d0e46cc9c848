"""Replaces a NodeModulesState that is older than what its daemon has already carried out."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from kmm_common.api.names import Event
from kmm_common.logs import log
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.errors import ConflictError, NotFoundError
from kmm_cp.kube.events import EventRecorder, Regarding
from kmm_cp.kube.resources import NODE_MODULES_STATES
from kmm_cp.policy.values import Node
from kmm_cp.runtime.controller import DONE, Result

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restorer:
    """Key: the node's name. Runs on every replica: the one that has the node's session knows.

    After etcd was restored a daemon refuses the lower generation. A new object has a new uid,
    which the daemon follows; the leader creates it from the Modules that there are. That needs no
    leader's word: a quorum read below what a daemon has carried out proves that history was lost.
    """

    client: KubeClient
    events: EventRecorder
    nodes: Mapping[str, Node]
    behind: dict[str, str] = field(default_factory=dict)
    """uid of the object that is behind, by node."""

    async def reconcile(self, name: str) -> Result:
        uid = self.behind.get(name)
        if uid is None:
            return DONE
        try:
            await self.client.delete(NODE_MODULES_STATES, name, uid=uid)
        except (NotFoundError, ConflictError):
            # Somebody was faster.
            self.behind.pop(name, None)
            return DONE
        self.behind.pop(name, None)
        log(logger, logging.WARNING, "state restored", node=name, uid=uid)
        node = self.nodes.get(name)
        if node is not None:
            text = "NodeModulesState was older than what the node had; it is made anew"
            self.events.warning(Regarding.node(name, node.uid), Event.STATE_RESTORED, text)
        return DONE
