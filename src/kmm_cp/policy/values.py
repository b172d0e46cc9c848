"""What the rules look at: a Node and its NodeModulesState, decoded to the fields that are used."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from kmm_common.api.names import PAUSED_ANNOTATION, SPEC_HASH_ANNOTATION
from kmm_common.api.nodemodulesstate import (
    DaemonStatus,
    NodeStatus,
    readable_status,
    spec_from_json,
    spec_hash,
)
from kmm_common.desired import DesiredModule, ModuleRef, ReportedModule


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A taint of a Node."""

    key: str
    value: str = ""
    effect: str
    """NoSchedule, PreferNoSchedule or NoExecute."""
    time_added: datetime | None = None
    """When it was set, as far as whoever set it said so; see with_taints_timed()."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A Node."""

    name: str
    uid: str = ""
    resource_version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    kernel_version: str = ""
    """As uname -r prints it; empty until the kubelet has said it."""
    boot_id: str = ""
    architecture: str = ""
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    """Cordoned."""
    ready: bool = False
    """The kubelet's condition Ready is True."""
    deleting: bool = False
    paused: str | None = None
    """Value of its annotation PAUSED_ANNOTATION."""

    @classmethod
    def from_object(cls, node: Mapping[str, Any]) -> "Node":
        """Decode a v1 Node as the API server gives it."""
        metadata, spec = node["metadata"], node.get("spec") or {}
        status = node.get("status") or {}
        info = status.get("nodeInfo") or {}
        return cls(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            resource_version=metadata.get("resourceVersion", ""),
            labels=metadata.get("labels") or {},
            kernel_version=info.get("kernelVersion", ""),
            boot_id=info.get("bootID", ""),
            architecture=info.get("architecture", ""),
            taints=tuple(map(_taint, spec.get("taints") or ())),
            unschedulable=bool(spec.get("unschedulable")),
            ready=_is_ready(status.get("conditions") or ()),
            deleting="deletionTimestamp" in metadata,
            paused=(metadata.get("annotations") or {}).get(PAUSED_ANNOTATION),
        )

    def with_taints_timed(self, before: "Node | None", now: datetime) -> "Node":
        """Give each taint without a time the one it had `before`, else now.

        tolerationSeconds count from then. `before` is the same Node as last seen, timed itself.
        """
        known = {_identity(taint): taint.time_added for taint in (before.taints if before else ())}
        timed = (
            replace(taint, time_added=taint.time_added or known.get(_identity(taint)) or now)
            for taint in self.taints
        )
        return replace(self, taints=tuple(timed))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """A NodeModulesState: what its node should have, and what its daemon said last."""

    name: str
    uid: str = ""
    generation: int = 0
    owner_uid: str = ""
    """metadata.uid of the Node that owns it."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """As the API server gave it, to be sent back verbatim."""
    modules: tuple[DesiredModule, ...] = ()
    """The spec."""
    intact: bool = True
    """The spec is as the control plane wrote it; one that somebody edited is never acted on."""
    status: NodeStatus = field(default_factory=NodeStatus)

    @classmethod
    def from_object(cls, state: Mapping[str, Any]) -> "NodeState":
        """Decode a NodeModulesState as the API server gives it."""
        metadata = state["metadata"]
        owners = metadata.get("ownerReferences") or ()
        modules = spec_from_json(state.get("spec"))
        written = (metadata.get("annotations") or {}).get(SPEC_HASH_ANNOTATION)
        return cls(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            generation=metadata.get("generation", 0),
            owner_uid=next((owner["uid"] for owner in owners if owner["kind"] == "Node"), ""),
            metadata=metadata,
            modules=modules,
            intact=written == spec_hash(modules),
            # One that cannot be read is as good as none: the node will say it anew.
            status=readable_status(state.get("status")) or NodeStatus(),
        )

    @property
    def resource_version(self) -> str:
        return str(self.metadata.get("resourceVersion", ""))

    @property
    def daemon(self) -> DaemonStatus:
        return self.status.daemon

    @property
    def settled(self) -> bool:
        """All steps towards this spec are done, or failed for good."""
        return self.status.observed_generation >= self.generation > 0

    @property
    def accepted(self) -> bool:
        """What the status says of the Modules is about this spec; its steps may not be done."""
        status = self.status
        return max(status.accepted_generation, status.observed_generation) >= self.generation > 0

    def entry(self, ref: ModuleRef) -> DesiredModule | None:
        """Return what is desired of a Module."""
        return next((module for module in self.modules if module.ref == ref), None)

    def report_of(self, ref: ModuleRef) -> ReportedModule | None:
        """Return what the daemon said of a Module last, in whichever boot."""
        return next((module for module in self.status.modules if module.ref == ref), None)


def _taint(taint: Mapping[str, Any]) -> Taint:
    added = taint.get("timeAdded")
    return Taint(
        key=taint["key"],
        value=taint.get("value") or "",
        effect=taint["effect"],
        time_added=datetime.fromisoformat(added) if added else None,
    )


def _identity(taint: Taint) -> tuple[str, str, str]:
    return taint.key, taint.value, taint.effect


def _is_ready(conditions: Any) -> bool:
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
