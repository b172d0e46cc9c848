"""Whether a Module or a Node is held by hand, by annotation."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kmm_common.api import names
from kmm_common.api.module import Module
from kmm_common.api.names import PAUSED_ANNOTATION, Reason
from kmm_cp.policy.conditions import Condition, merged_conditions
from kmm_cp.policy.values import Node, NodeState

_SHOWN = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """What the annotation says; without one nothing."""

    on: bool = False
    problem: str = ""
    """Why an annotation was not taken."""


def module_pause(module: Module) -> Pause:
    """Return what a Module's annotation says."""
    return _pause(module.metadata.annotations.get(PAUSED_ANNOTATION))


def node_pause(node: Node) -> Pause:
    """Return what a Node's annotation says."""
    return _pause(node.paused)


def module_paused(module: Module) -> Condition | None:
    """Return the condition Paused of a Module, None where nothing is to be said."""
    what = "what nodes have of this Module stays as it is: nothing is loaded, changed or unloaded"
    return _condition(module_pause(module), what)


def node_paused(node: Node) -> Condition | None:
    """Return the condition Paused of a NodeModulesState, None where nothing is to be said."""
    what = "the Node is paused, its spec stays as it is: no Module is added, changed or taken away"
    return _condition(node_pause(node), what)


def conditions_to_write(node: Node, state: NodeState, now: datetime) -> list[dict[str, Any]] | None:
    """Return status.conditions of a NodeModulesState with its Paused; None where they say it."""
    old, wanted = state.status.conditions, node_paused(node)
    said = [each for each in old if each["type"] == names.Condition.PAUSED]
    if [_content(each) for each in said] == ([_content_of(wanted)] if wanted else []):
        return None
    return merged_conditions(
        old,
        [wanted] if wanted else [],
        generation=state.generation,
        now=now,
        ours={names.Condition.PAUSED},
    )


def _content(condition: Mapping[str, Any]) -> tuple[str, ...]:
    return condition["status"], condition["reason"], condition["message"]


def _content_of(condition: Condition) -> tuple[str, ...]:
    return str(condition.status), str(condition.reason), condition.message


def _pause(value: str | None) -> Pause:
    if value is None or value == "false":
        return Pause()
    if value == "true":
        return Pause(on=True)
    problem = (
        f"annotation {PAUSED_ANNOTATION} is {value[:_SHOWN]!r} and not taken: write true to hold "
        "what is there, or remove it"
    )
    return Pause(problem=problem)


def _condition(pause: Pause, what: str) -> Condition | None:
    if pause.on:
        message = f"{what}; remove annotation {PAUSED_ANNOTATION} to go on"
        return Condition(
            type=names.Condition.PAUSED, status=True, reason=Reason.PAUSED, message=message
        )
    if pause.problem:
        return Condition(
            type=names.Condition.PAUSED,
            status=False,
            reason=Reason.INVALID_ANNOTATION,
            message=pause.problem,
        )
    return None
