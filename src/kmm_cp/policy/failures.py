"""On how many nodes a Module fails, and why: for its status, and for events when that is news."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kmm_common.api.module import Module
from kmm_common.desired import ModuleFailure, ModuleState
from kmm_cp.policy.outcome import Sight

_ROWS = 16
_REASON = 64
_MESSAGE = 512


def failures_of(module: Module, sights: Iterable[Sight]) -> list[dict[str, Any]]:
    """Return status.failures: a row a reason, the one on most nodes first.

    A failure counts until it is over, retries in progress included.
    """
    nodes_by_reason: dict[str, dict[str, str]] = {}
    for sight in sights:
        if failure := _failure(module, sight):
            nodes_by_reason.setdefault(failure.reason[:_REASON], {})[sight.node.name] = (
                failure.message
            )
    ordered = sorted(nodes_by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    return [_row(reason, messages) for reason, messages in ordered[:_ROWS]]


def news(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a status says of failures whose reason the one before did not have."""
    known = {row["reason"] for row in before.get("failures") or ()}
    for row in now.get("failures") or ():
        if row["reason"] not in known:
            yield _sentence(row)


def _failure(module: Module, sight: Sight) -> ModuleFailure | None:
    report = sight.report(module.ref)
    if report is None or report.uid != module.metadata.uid:
        return None
    return report.error if report.attempts or report.state is ModuleState.FAILED else None


def _row(reason: str, messages: Mapping[str, str]) -> dict[str, Any]:
    node = min(messages)
    return {
        "reason": reason,
        "nodes": len(messages),
        "node": node,
        "message": messages[node][:_MESSAGE],
    }


def _sentence(row: Mapping[str, Any]) -> str:
    where = f"node {row['node']}" if row["nodes"] == 1 else f"{row['nodes']} nodes"
    first = "" if row["nodes"] == 1 else f"{row['node']}: "
    return f"{row['reason']} on {where}: {first}{row['message']}"
