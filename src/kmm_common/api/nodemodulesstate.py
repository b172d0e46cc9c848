"""NodeModulesState: one per node, what it should have (spec) and what it has (status).

Plain dicts in, plain dicts out: this is on the control plane's hot path. The schema of the CRD is
generated from the same dataclasses (kmm_common.api.crd).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from kmm_common.api.codec import Time, from_json, to_json
from kmm_common.clock import from_rfc3339
from kmm_common.desired import (
    MESSAGE_BYTES,
    DesiredModule,
    ModuleFailure,
    ModuleState,
    ReportedModule,
    cut,
)

UNOBSERVED = -1
"""observedGeneration of a NodeModulesState whose daemon has said nothing yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonStatus:
    """The daemon that speaks for the node."""

    connected: bool = False
    """False once no replica of the control plane has served the node for a minute."""
    pod_name: str = ""
    """Its Pod, in the operator's namespace."""
    version: str = ""
    """Its release."""
    since: Time = ""
    """Last change of connected, RFC 3339."""
    instance: str = ""
    """Random per start of the daemon."""
    sequence: int = 0
    """Of the newest report of this instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleStatus:
    """What the daemon said of one Module."""

    namespace: str
    """metadata.namespace of the Module."""
    name: str
    """metadata.name of the Module."""
    uid: str
    """metadata.uid of the Module."""
    state: ModuleState
    """Where the Module is on the node."""
    in_kernel: bool = False
    """True while the Module's module is in the running kernel, whatever its configuration; also
    while one of its name is, and the image is not there yet that can tell whose it is."""
    image_digest: str = ""
    """Of what is in the kernel; of what is being brought there while nothing is."""
    config_hash: str = ""
    """Of the same."""
    attempts: int = 0
    """Failed attempts since the last success or change."""
    last_transition_time: Time = ""
    """Last change of state, RFC 3339, milliseconds."""
    error: ModuleFailure | None = None
    """Why it is not where it should be."""
    retrying: bool = False
    """Failed, and the daemon will try again by itself."""
    warning: str = ""
    """What is not as its user thinks, of what is in the kernel: a parameter that it ignores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the printer columns show."""

    desired: int = 0
    """Modules that the node should have."""
    loaded: int = 0
    """Modules that are Loaded."""
    failed: int = 0
    """Modules that are Failed."""
    error: str = ""
    """The first failure, as namespace/name: reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """status of a NodeModulesState."""

    observed_generation: int = UNOBSERVED
    """The newest generation whose steps are all done, or failed for good."""
    accepted_generation: int = UNOBSERVED
    """The generation that modules is about: the daemon has journaled it."""
    boot_id: str = ""
    """The boot that modules is about; empty while nothing is known of the running one."""
    kernel_version: str = ""
    """uname -r."""
    daemon: DaemonStatus = DaemonStatus()
    modules: tuple[ReportedModule, ...] = ()
    """Complete: a Module that is missing here has no module in the kernel of that boot."""
    summary: Summary = Summary()
    conditions: tuple[Mapping[str, Any], ...] = ()
    """Of the same modules, as metav1.Condition has them."""


def spec_to_json(modules: Iterable[DesiredModule]) -> dict[str, Any]:
    """Return the spec for these modules, ordered by namespace and name."""
    return {"modules": [to_json(each) for each in sorted(modules, key=lambda each: each.ref)]}


def spec_from_json(spec: Mapping[str, Any] | None) -> tuple[DesiredModule, ...]:
    """Return the modules of a spec. Raises KeyError, TypeError or ValueError."""
    return tuple(from_json(DesiredModule, each) for each in (spec or {}).get("modules") or ())


@lru_cache(maxsize=4096)
def spec_hash(modules: tuple[DesiredModule, ...]) -> str:
    """Return a hash of a spec that does not change when a release adds fields with defaults."""
    canonical = json.dumps(spec_to_json(modules), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def status_to_json(status: NodeStatus) -> dict[str, Any]:
    """Return the whole status."""
    return {
        "observedGeneration": status.observed_generation,
        "acceptedGeneration": status.accepted_generation,
        "bootId": status.boot_id,
        "kernelVersion": status.kernel_version,
        "daemon": to_json(status.daemon),
        "modules": [_module_to_json(each) for each in status.modules],
        "summary": _summary_to_json(status.summary),
        "conditions": [dict(each) for each in status.conditions],
    }


def _summary_to_json(counted: Summary) -> dict[str, Any]:
    # Always all three counters, for the printer columns.
    numbers = {"desired": counted.desired, "loaded": counted.loaded, "failed": counted.failed}
    return {**numbers, "error": counted.error} if counted.error else numbers


def summary(modules: Iterable[ReportedModule], *, desired: int) -> Summary:
    """Count what the printer columns show; `desired` is the number of modules in the spec."""
    modules = tuple(modules)
    failed = [each for each in modules if each.state is ModuleState.FAILED]
    errors = [f"{each.ref}: {each.error.reason}" for each in failed if each.error is not None]
    return Summary(
        desired=desired,
        loaded=sum(each.state is ModuleState.LOADED for each in modules),
        failed=len(failed),
        error=errors[0] if errors else "",
    )


def status_from_json(status: Mapping[str, Any] | None) -> NodeStatus:
    """Return a status; the default one where there is none.

    Raises KeyError, TypeError or ValueError: for want of a field, or for a time that is none.
    """
    status = status or {}
    daemon = from_json(DaemonStatus, status.get("daemon") or {})
    if daemon.since:
        from_rfc3339(daemon.since)
    return NodeStatus(
        observed_generation=status.get("observedGeneration", UNOBSERVED),
        accepted_generation=status.get("acceptedGeneration", UNOBSERVED),
        boot_id=status.get("bootId", ""),
        kernel_version=status.get("kernelVersion", ""),
        daemon=daemon,
        modules=tuple(_module_from_json(each) for each in status.get("modules") or ()),
        summary=from_json(Summary, status.get("summary") or {}),
        conditions=tuple(status.get("conditions") or ()),
    )


def readable_status(status: Mapping[str, Any] | None) -> NodeStatus | None:
    """Return a status; None for one that nobody of us can have written."""
    try:
        return status_from_json(status)
    except (KeyError, TypeError, ValueError):
        return None


def _module_to_json(module: ReportedModule) -> dict[str, Any]:
    return to_json(
        ModuleStatus(
            namespace=module.namespace,
            name=module.name,
            uid=module.uid,
            state=module.state,
            in_kernel=module.in_kernel,
            image_digest=module.image_digest,
            config_hash=module.config_hash,
            attempts=module.attempts,
            last_transition_time=_moment(module.since_ms),
            error=None if module.error is None else module.error.bounded(),
            retrying=module.retrying,
            warning=cut(module.warning, MESSAGE_BYTES),
        )
    )


def _module_from_json(content: Mapping[str, Any]) -> ReportedModule:
    status = from_json(ModuleStatus, content)
    return ReportedModule(
        namespace=status.namespace,
        name=status.name,
        uid=status.uid,
        state=status.state,
        in_kernel=status.in_kernel,
        image_digest=status.image_digest,
        config_hash=status.config_hash,
        attempts=status.attempts,
        since_ms=_milliseconds(status.last_transition_time),
        error=status.error,
        retrying=status.retrying,
        warning=status.warning,
    )


def _moment(milliseconds: int) -> str:
    if not milliseconds:
        return ""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _milliseconds(moment: str) -> int:
    return round(from_rfc3339(moment).timestamp() * 1000) if moment else 0
