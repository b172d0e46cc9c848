"""Conditions of a Module as Kubernetes keeps them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kmm_common.api import names
from kmm_common.clock import rfc3339

_OURS = frozenset(names.Condition)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One thing that is so, or is not so."""

    type: names.Condition
    status: bool
    reason: str
    """One of kmm_common.api.names.Reason."""
    message: str


def merged_conditions(
    old: Sequence[Mapping[str, Any]],
    new: Iterable[Condition],
    *,
    generation: int,
    now: datetime,
    ours: Collection[str] = _OURS,
) -> list[dict[str, Any]]:
    """Return status.conditions; those of other writers stay, ours that are not in `new` go.

    `ours`: the types that the caller writes.
    """
    before = {condition["type"]: condition for condition in old}
    others = [dict(condition) for condition in old if condition["type"] not in ours]
    said = (_written(condition, before.get(condition.type), generation, now) for condition in new)
    return [*said, *others]


def _written(
    condition: Condition, before: Mapping[str, Any] | None, generation: int, now: datetime
) -> dict[str, Any]:
    status = str(condition.status)
    same = before is not None and before["status"] == status
    return {
        "type": condition.type.value,
        "status": status,
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if before and same else rfc3339(now),
        "reason": str(condition.reason),
        "message": condition.message,
    }
