"""Builders of what the rules of the control plane look at."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from kmm_common.api.module import Module
from kmm_common.api.nodemodulesstate import DaemonStatus, NodeStatus
from kmm_common.desired import (
    DesiredModule,
    Modprobe,
    ModuleFailure,
    ModuleState,
    ReportedModule,
    config_hash,
)
from kmm_cp.policy.digests import Pending, Pinned, Resolution, Unresolved
from kmm_cp.policy.entry import with_digest
from kmm_cp.policy.values import Node, NodeState

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
CREATED = "2025-06-01T00:00:00Z"
KERNEL = "6.1.0-18-amd64"
BOOT = "boot-1"
DIGEST = f"sha256:{'1' * 64}"
OTHER_DIGEST = f"sha256:{'2' * 64}"


def module(
    name: str = "simple",
    *,
    namespace: str = "default",
    mappings: list[dict[str, Any]] | None = None,
    container: Mapping[str, Any] | None = None,
    modprobe: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
) -> Module:
    """Return a Module as the API server would give it; it takes every node and kernel."""
    loader = {
        "modprobe": {"moduleName": name, **(modprobe or {})},
        "kernelMappings": mappings
        or [{"regexp": ".*", "containerImage": "registry.example/kmod:1"}],
        **(container or {}),
    }
    return Module.from_object(
        {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": f"uid-{name}",
                "generation": 1,
                "creationTimestamp": CREATED,
                **(metadata or {}),
            },
            "spec": {"selector": {}, "moduleLoader": {"container": loader}, **(spec or {})},
            "status": dict(status or {}),
        }
    )


def node(name: str = "node-1", **changes: Any) -> Node:
    """Return a ready Node that runs KERNEL in BOOT."""
    given = {"uid": f"uid-{name}", "kernel_version": KERNEL, "boot_id": BOOT, "ready": True}
    return Node(name=name, **{**given, **changes})


def entry(name: str = "simple", *, digest: str = DIGEST, **changes: Any) -> DesiredModule:
    """Return what plan_node makes of module(name) on node(), with any change."""
    made = DesiredModule(
        namespace="default",
        name=name,
        uid=f"uid-{name}",
        kernel_version=KERNEL,
        image="registry.example/kmod:1",
        modprobe=Modprobe(module_name=name),
    )
    return with_digest(replace(made, **changes), digest)


def loaded(of: DesiredModule, *, digest: str = "", **changes: Any) -> ReportedModule:
    """Return the report of a daemon that has loaded an entry."""
    used = of.image_digest or digest
    report = ReportedModule(
        namespace=of.namespace,
        name=of.name,
        uid=of.uid,
        state=ModuleState.LOADED,
        in_kernel=True,
        image_digest=used,
        config_hash=config_hash(of, image_digest=used),
    )
    return replace(report, **changes)


def failed(of: DesiredModule, reason: str = "ImageNotFound", message: str = "no such tag") -> Any:
    """Return the report of a daemon that could not load an entry."""
    return loaded(
        of,
        state=ModuleState.FAILED,
        in_kernel=False,
        error=ModuleFailure(reason=reason, message=message),
    )


def state(
    *modules: DesiredModule,
    name: str = "node-1",
    reports: tuple[ReportedModule, ...] = (),
    generation: int = 3,
    observed: int | None = None,
    accepted: int | None = None,
    boot_id: str = BOOT,
    connected: bool = True,
    since: str = CREATED,
) -> NodeState:
    """Return a NodeModulesState whose daemon is done with its spec."""
    return NodeState(
        name=name,
        uid=f"uid-state-{name}",
        generation=generation,
        owner_uid=f"uid-{name}",
        modules=modules,
        status=NodeStatus(
            observed_generation=generation if observed is None else observed,
            accepted_generation=generation if accepted is None else accepted,
            boot_id=boot_id,
            kernel_version=KERNEL,
            daemon=DaemonStatus(connected=connected, since=since),
            modules=reports,
        ),
    )


def pinned(_: DesiredModule) -> Resolution:
    """Answer as a registry that has every image."""
    return Pinned(DIGEST)


def pending(_: DesiredModule) -> Resolution:
    """Answer as a registry that has not answered yet."""
    return Pending()


def unresolved(_: DesiredModule) -> Resolution:
    """Answer as a registry that cannot be reached."""
    return Unresolved(reason="ImagePullFailed", message="registry.example: connection refused")


def missing(_: DesiredModule) -> Resolution:
    """Answer as a registry that has no such image."""
    return Unresolved(reason="ImageNotFound", message="registry.example has no kmod:1")
