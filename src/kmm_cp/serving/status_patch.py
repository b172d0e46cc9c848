"""What is to be written into a NodeModulesState's status, and under which conditions: pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from kmm_common.api import names
from kmm_common.api.codec import to_json
from kmm_common.api.nodemodulesstate import (
    UNOBSERVED,
    DaemonStatus,
    NodeStatus,
    readable_status,
    status_from_json,
    status_to_json,
    summary,
)
from kmm_common.clock import rfc3339
from kmm_common.desired import ModuleRef, ModuleState, ReportedModule
from kmm_cp.policy.conditions import Condition
from kmm_cp.policy.node_conditions import node_conditions
from kmm_cp.serving.sessions import Session
from kmm_cp.serving.values import Report

Json = dict[str, Any]

_SINCE = "lastTransitionTime"
_OF_ACCEPTANCE = {"acceptedGeneration", "conditions"}
"""What changes when a daemon has a new spec and has done nothing about it yet."""
_PASSING = {ModuleState.PULLING, ModuleState.LOADING, ModuleState.UNLOADING}


def content(session: Session, report: Report, *, uid: str, desired: int, boot_id: str) -> Json:
    """Return the status that a report stands for, as content_of() gives it."""
    observed = report.observed_generation if report.uid == uid else UNOBSERVED
    accepted = report.accepted_generation if report.accepted_uid == uid else UNOBSERVED
    conditions = node_conditions(report.modules, settled=observed >= max(accepted, 1))
    generation = max(observed, accepted, 0)
    return content_of(
        NodeStatus(
            observed_generation=observed,
            accepted_generation=accepted,
            boot_id=boot_id,
            kernel_version=session.greeting.kernel_version,
            modules=report.modules,
            summary=summary(report.modules, desired=desired),
            conditions=tuple(_condition(each, generation) for each in conditions),
        )
    )


def content_of(status: NodeStatus) -> Json:
    """Return what daemons say of a status: no daemon part, no times of its conditions.

    When a condition changed last depends on what was written before. Paused is the leader's.
    """
    written = status_to_json(status)
    del written["daemon"]
    written["conditions"] = [each for each in written["conditions"] if not _is_leaders(each)]
    for condition in written["conditions"]:
        condition.pop(_SINCE, None)
    return written


def persisted_content(raw: Mapping[str, Any]) -> Json:
    """Return content_of() a status that was read.

    Empty for one that cannot be read: then everything is to be written.
    """
    status = readable_status(raw)
    return content_of(status) if status is not None else {}


def _condition(condition: Condition, generation: int) -> Json:
    return {
        "type": condition.type.value,
        "status": str(condition.status),
        "observedGeneration": generation,
        "reason": str(condition.reason),
        "message": condition.message,
    }


def timed(
    conditions: Iterable[Json], before: Iterable[Mapping[str, Any]], now: datetime
) -> list[Json]:
    """Return conditions with the time of the last change of their status, and the leader's.

    `before`: all that were there.
    """
    before = list(before)
    since = {(each["type"], each["status"]): each[_SINCE] for each in before}
    ours = [
        {**each, _SINCE: since.get((each["type"], each["status"]), rfc3339(now))}
        for each in conditions
    ]
    return with_leaders(ours, before)


def with_leaders(
    ours: Iterable[Mapping[str, Any]], seen: Iterable[Mapping[str, Any]]
) -> list[Json]:
    """Return conditions of this writer with those of the leader, as they were seen."""
    own = [dict(each) for each in ours if not _is_leaders(each)]
    return [*own, *(dict(each) for each in seen if _is_leaders(each))]


def _is_leaders(condition: Mapping[str, Any]) -> bool:
    return bool(condition.get("type") == names.Condition.PAUSED)


def passing(written: Json, wanted: Json) -> bool:
    """Tell whether a change is only on its way to another one that may come soon."""
    if written and {"acceptedGeneration"} <= _changed(written, wanted) <= _OF_ACCEPTANCE:
        return True
    before = {module.ref: module for module in status_from_json(written).modules}
    return any(_passes(module, before) for module in status_from_json(wanted).modules)


def in_gap(written: Json, wanted: Json) -> bool:
    """Tell whether a module has left the kernel, perhaps only for the time of its reload."""
    inside = {each.ref for each in status_from_json(wanted).modules if each.in_kernel}
    before = status_from_json(written).modules
    return any(each.in_kernel and each.ref not in inside for each in before)


def _changed(written: Json, wanted: Json) -> set[str]:
    return {key for key, value in wanted.items() if written.get(key) != value}


def _passes(module: ReportedModule, before: Mapping[ModuleRef, ReportedModule]) -> bool:
    if module == before.get(module.ref):
        return False
    waits = module.state is ModuleState.PENDING and module.error is None
    return waits or module.state in _PASSING


def claim(
    raw: Mapping[str, Any],
    *,
    uid: str,
    daemon: DaemonStatus,
    wanted: Json,
    conditions: list[Json],
) -> list[Json]:
    """Return the patch by which a session becomes the one who writes a status.

    `raw` is the status as it was read: whoever else claims it meanwhile makes the patch fail.
    `conditions` are those of `wanted`, with their times.
    """
    before = raw.get("daemon")
    if before and before.get("instance"):
        tests = [_test(f"/status/daemon/{key}", before[key]) for key in _FENCE if key in before]
    else:
        tests = [_test("/status", raw)]
    # Fields with their default are left out elsewhere; this one later patches test.
    said = {**to_json(daemon), "sequence": daemon.sequence}
    return [
        _test("/metadata/uid", uid),
        *tests,
        *(_add(key, value) for key, value in {**wanted, "conditions": conditions}.items()),
        _add("daemon", said),
    ]


def update(
    written: Json,
    wanted: Json,
    *,
    conditions: list[Json],
    uid: str,
    instance: str,
    before: int,
    sequence: int,
) -> list[Json]:
    """Return the patch for a newer report of the instance that holds the claim.

    `conditions` are those of `wanted`, with their times.
    """
    values = {**wanted, "conditions": conditions}
    return [
        _test("/metadata/uid", uid),
        _test("/status/daemon/instance", instance),
        _test("/status/daemon/sequence", before),
        *(_add(key, values[key]) for key in wanted if key in _changed(written, wanted)),
        _add("daemon/sequence", sequence),
    ]


_FENCE = ("instance", "sequence")


def _test(path: str, value: Any) -> Json:
    return {"op": "test", "path": path, "value": value}


def _add(key: str, value: Any) -> Json:
    # JSON patch's add also replaces what is there.
    return {"op": "add", "path": f"/status/{key}", "value": value}
