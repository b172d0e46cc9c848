"""What is to be written into a NodeModulesState's status, and under which conditions: pure."""

from collections.abc import Mapping
from typing import Any

from kmm_common.api.codec import to_json
from kmm_common.api.nodemodulesstate import (
    UNOBSERVED,
    DaemonStatus,
    NodeStatus,
    status_from_json,
    status_to_json,
)
from kmm_common.desired import ModuleRef, ModuleState, ReportedModule
from kmm_cp.serving.sessions import Session
from kmm_cp.serving.values import Report

Json = dict[str, Any]

_PASSING = {ModuleState.PULLING, ModuleState.LOADING, ModuleState.UNLOADING}


def content(session: Session, report: Report, *, uid: str, desired: int) -> Json:
    """Return the status that a report stands for, without its daemon part."""
    observed = report.observed_generation if report.uid == uid else UNOBSERVED
    status = NodeStatus(
        observed_generation=observed,
        boot_id=session.greeting.boot_id,
        kernel_version=session.greeting.kernel_version,
        modules=report.modules,
    )
    written = status_to_json(status, desired=desired)
    del written["daemon"]
    return written


def persisted_content(raw: Mapping[str, Any]) -> Json:
    """Return the same part of a status that was read, spelled as content() spells it.

    Empty for one that nobody of us has written: then everything is to be written.
    """
    try:
        status = status_from_json(raw)
        written = status_to_json(status, desired=raw["summary"]["desired"])
    except (KeyError, TypeError, ValueError):
        return {}
    del written["daemon"]
    return written


def passing(written: Json, report: Report) -> bool:
    """Tell whether a change is only on its way to another one that may come soon."""
    before = {module.ref: module for module in status_from_json(written).modules}
    return any(_passes(module, before) for module in report.modules)


def _passes(module: ReportedModule, before: Mapping[ModuleRef, ReportedModule]) -> bool:
    if module == before.get(module.ref):
        return False
    waits = module.state is ModuleState.PENDING and module.error is None
    return waits or module.state in _PASSING


def claim(raw: Mapping[str, Any], *, uid: str, daemon: DaemonStatus, wanted: Json) -> list[Json]:
    """Return the patch by which a session becomes the one who writes a status.

    `raw` is the status as it was read: whoever else claims it meanwhile makes the patch fail.
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
        *(_add(key, value) for key, value in wanted.items()),
        _add("daemon", said),
    ]


def update(
    written: Json, wanted: Json, *, uid: str, instance: str, before: int, sequence: int
) -> list[Json]:
    """Return the patch for a newer report of the instance that holds the claim."""
    return [
        _test("/metadata/uid", uid),
        _test("/status/daemon/instance", instance),
        _test("/status/daemon/sequence", before),
        *(_add(key, value) for key, value in wanted.items() if written.get(key) != value),
        _add("daemon/sequence", sequence),
    ]


_FENCE = ("instance", "sequence")


def _test(path: str, value: Any) -> Json:
    return {"op": "test", "path": path, "value": value}


def _add(key: str, value: Any) -> Json:
    # JSON patch's add also replaces what is there.
    return {"op": "add", "path": f"/status/{key}", "value": value}
