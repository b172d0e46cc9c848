"""What a Module's own status says is wrong with it, whatever single nodes say. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kmm_common.api.names import Condition

UNSEEN = "Unseen"
_BAD_IMAGES = ("Missing", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is not as it should be with a Module."""

    module: str
    about: str
    """A condition (Ready, Stalled, Paused, DeletionWaits), or "Image"."""
    reason: str
    """The condition's, or the image's state; Unseen where no control plane has looked yet."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmatched:
    """A Module that no node has an entry for, with what its condition Ready says."""

    module: str
    reason: str
    message: str


def name_of(module: Mapping[str, Any]) -> str:
    """Return namespace/name of a Module as the API server gives it."""
    metadata = module["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}"


def problems_of(module: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with a Module as the API server gives it."""
    yield from _unreadiness(module)
    if paused := _conditions(module).get(Condition.PAUSED):
        # Without the status True it says of an annotation that it was not taken.
        yield _problem(module, paused)
    waits = _conditions(module).get(Condition.DELETION_WAITS, {})
    if waits.get("status") == "True":
        yield _problem(module, waits)
    for image in _status(module).get("images") or ():
        if image["state"] in _BAD_IMAGES:
            message = f"{image['image']} for kernel {image['kernel']}: {image.get('message', '')}"
            yield Problem(
                module=name_of(module), about="Image", reason=image["state"], message=message
            )


def unmatched(module: Mapping[str, Any]) -> Unmatched:
    """Return a Module on no node with the reason that its status has for it."""
    ready = _conditions(module).get(Condition.READY, {})
    return Unmatched(
        module=name_of(module), reason=ready.get("reason", ""), message=ready.get("message", "")
    )


def is_paused(found: Mapping[str, Any]) -> bool:
    """Tell whether a Module or NodeModulesState says that it is held by hand."""
    return _conditions(found).get(Condition.PAUSED, {}).get("status") == "True"


def _unreadiness(module: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield at most one: Stalled says the same as the Ready=False beside it, and more."""
    generation, conditions = module["metadata"].get("generation", 0), _conditions(module)
    if (
        Condition.READY not in conditions
        or _status(module).get("observedGeneration", -1) < generation
    ):
        message = f"no control plane has said anything of generation {generation} yet"
        yield Problem(module=name_of(module), about="Ready", reason=UNSEEN, message=message)
    elif conditions.get(Condition.STALLED, {}).get("status") == "True":
        yield _problem(module, conditions[Condition.STALLED])
    elif conditions.get(Condition.READY, {}).get("status") == "False":
        yield _problem(module, conditions[Condition.READY])


def _problem(module: Mapping[str, Any], condition: Mapping[str, Any]) -> Problem:
    return Problem(
        module=name_of(module),
        about=condition["type"],
        reason=condition["reason"],
        message=condition["message"],
    )


def _conditions(module: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return {each["type"]: each for each in _status(module).get("conditions") or ()}


def _status(module: Mapping[str, Any]) -> Mapping[str, Any]:
    status: Mapping[str, Any] = module.get("status") or {}
    return status
