"""Which taints of a Node keep a Module out or drive it off, and when."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kmm_common.api.meta import Toleration
from kmm_cp.policy.values import Node, Taint

CORDON = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")
ALWAYS_TOLERATED = frozenset(
    f"node.kubernetes.io/{condition}"
    for condition in (
        "not-ready",
        "unreachable",
        "disk-pressure",
        "memory-pressure",
        "pid-pressure",
        "network-unavailable",
    )
)
"""As by the DaemonSet controller: drivers must load on a node that is not ready without them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaintVerdict:
    """What the taints of a node mean for a Module."""

    drives_off: Taint | None = None
    """NoExecute, not tolerated, or tolerated for a time that is over."""
    keeps_out: Taint | None = None
    """NoSchedule, not tolerated: matters to a Module that is not on the node yet."""
    until: datetime | None = None
    """When a taint that is tolerated for a time starts to drive off."""


def taint_verdict(node: Node, tolerations: Sequence[Toleration], now: datetime) -> TaintVerdict:
    """Judge the taints of a node; a cordon counts as the taint it brings."""
    ends = {taint: _tolerated_until(taint, tolerations, now) for taint in _relevant(node)}
    drives_off = (t for t, end in ends.items() if t.effect == "NoExecute" and end and end <= now)
    keeps_out = (t for t, end in ends.items() if t.effect == "NoSchedule" and end)
    return TaintVerdict(
        drives_off=next(drives_off, None),
        keeps_out=next(keeps_out, None),
        until=min((end for end in ends.values() if end and end > now), default=None),
    )


def _relevant(node: Node) -> Iterator[Taint]:
    if node.unschedulable:
        yield CORDON
    for taint in node.taints:
        if taint.key not in ALWAYS_TOLERATED and taint.effect in ("NoExecute", "NoSchedule"):
            yield taint


def _tolerated_until(
    taint: Taint, tolerations: Iterable[Toleration], now: datetime
) -> datetime | None:
    """Return when the first toleration that matches ends: now without one, None for never."""
    found = next((each for each in tolerations if tolerates(each, taint)), None)
    if found is None:
        return now
    if taint.effect != "NoExecute" or found.toleration_seconds is None:
        return None
    return _after(taint.time_added or now, found.toleration_seconds)


def _after(start: datetime, seconds: int) -> datetime | None:
    """Return the end of a time, None where no calendar has it; below zero it is over at once."""
    try:
        return start + timedelta(seconds=max(seconds, 0))
    except OverflowError:
        return None


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Tell whether a toleration matches a taint, as Kubernetes defines it."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.value
