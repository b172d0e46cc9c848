"""The status of a Module, from all nodes and what they say."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kmm_common.api import names
from kmm_common.api.module import Module
from kmm_common.api.names import Reason
from kmm_cp.policy.acted import not_acted_on
from kmm_cp.policy.conditions import Condition, merged_conditions
from kmm_cp.policy.deletion import Wait, held_by_others, waits_for
from kmm_cp.policy.digests import Digests, known_digests
from kmm_cp.policy.entry import Entries
from kmm_cp.policy.failures import failures_of
from kmm_cp.policy.image_status import images_of
from kmm_cp.policy.outcome import Outcome, Sight, outcome_of
from kmm_cp.policy.pause import module_paused
from kmm_cp.policy.tolerance import tolerance
from kmm_cp.policy.values import Node, NodeState
from kmm_cp.policy.verdict import conditions_of, verdict_on

_NAMED_WAITS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What an administrator sets for all Modules."""

    tolerated_failures: str = "0"
    """A number of nodes, or a share such as 10%."""
    disconnected_seconds: float = 300.0
    """How long a deletion waits for a node that is away."""


def module_status(
    module: Module,
    nodes: Iterable[Node],
    states: Mapping[str, NodeState],
    digests: Digests,
    *,
    live: Callable[[str], bool],
    rules: Rules,
    now: datetime,
) -> dict[str, Any]:
    """Return the whole status; equal to module.status where there is nothing new to say."""
    by_name, entries = {node.name: node for node in nodes}, Entries(module)
    sights = [
        Sight(node=node, state=states.get(name), live=live(name)) for name, node in by_name.items()
    ]
    outcomes = [outcome_of(module, entries, sight, now) for sight in sights]
    waits = (
        waits_for(
            module,
            by_name,
            states.values(),
            live=live,
            now=now,
            disconnected_seconds=rules.disconnected_seconds,
        )
        if module.deleting
        else ()
    )
    conditions = _conditions(module, outcomes, waits, rules)
    known = known_digests(states.values(), only=module.ref)
    return {
        **module.status,
        "observedGeneration": module.metadata.generation,
        "moduleLoader": _counters(outcomes),
        "conditions": merged_conditions(
            module.status.get("conditions") or (),
            conditions,
            generation=module.metadata.generation,
            now=now,
        ),
        "images": images_of(outcomes, digests, known),
        "failures": failures_of(module, sights),
    }


def _counters(outcomes: Sequence[Outcome]) -> dict[str, int]:
    return {
        "nodesMatchingSelectorNumber": sum(outcome.targeted for outcome in outcomes),
        "desiredNumber": sum(outcome.planned for outcome in outcomes),
        "availableNumber": sum(outcome.available for outcome in outcomes),
    }


def _conditions(
    module: Module, outcomes: Sequence[Outcome], waits: Sequence[Wait], rules: Rules
) -> Iterator[Condition]:
    tolerated = tolerance(module.metadata.annotations, rules.tolerated_failures)
    verdict = verdict_on(module, outcomes, tolerated)
    yield from conditions_of(verdict)
    if condition := not_acted_on(module):
        yield condition
    if paused := module_paused(module):
        yield paused
    if waits:
        yield _deletion_waits(waits, held_by_others(module))


def _deletion_waits(waits: Sequence[Wait], held: str) -> Condition:
    told = [f"{wait.node}: {wait.reason}: {wait.message}" for wait in waits[:_NAMED_WAITS]]
    more = len(waits) - _NAMED_WAITS
    if more > 0:
        told.append(f"and {more} more nodes")
    if held:
        told.append(f"also {held}")
    return Condition(
        type=names.Condition.DELETION_WAITS,
        status=True,
        reason=Reason.WAITING_FOR_UNLOAD,
        message="; ".join(told),
    )
