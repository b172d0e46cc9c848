"""Frozen dataclasses as Kubernetes JSON: camelCase, defaults left out, unknown fields ignored.

Left out because an object's size is what the API server pays for at every write.
"""

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Annotated, Any, TypeVar

T = TypeVar("T")

Time = Annotated[str, "date-time"]
"""A metav1.Time or MicroTime; the annotation is the format that the API server checks."""

# As Kubernetes' own API spells initialisms.
_INITIALISMS = {"tls": "TLS"}


def camel(name: str) -> str:
    """Return a field's name as JSON has it: image_digest -> imageDigest."""
    first, *rest = name.split("_")
    return first + "".join(_INITIALISMS.get(part, part.capitalize()) for part in rest)


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """How one field is read and written."""

    name: str
    json: str
    required: bool
    default: Any
    decode: Callable[[Any], Any]


def to_json(value: Any) -> dict[str, Any]:
    """Return a dataclass as a JSON object without the fields that have their default."""
    written: dict[str, Any] = {}
    for plan in field_plans(type(value)):
        content = getattr(value, plan.name)
        if plan.required or content != plan.default:
            written[plan.json] = _encode(content)
    return written


def from_json(cls: type[T], content: Mapping[str, Any]) -> T:
    """Return a dataclass from a JSON object. Raises KeyError, TypeError or ValueError."""
    given = {
        plan.name: plan.decode(content[plan.json])
        for plan in field_plans(cls)
        if plan.required or content.get(plan.json) is not None
    }
    return cls(**given)


def field_plans(cls: type[Any]) -> tuple[FieldPlan, ...]:
    """Return the plans of a dataclass, worked out once."""
    if cls not in _plans:
        _plans[cls] = _field_plans(cls)
    return _plans[cls]


_plans: dict[type[Any], tuple[FieldPlan, ...]] = {}


def _field_plans(cls: type[Any]) -> tuple[FieldPlan, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(_plan(each, hints[each.name]) for each in fields(cls))


def _plan(each: "Field[Any]", hint: Any) -> FieldPlan:
    default = each.default if each.default_factory is MISSING else each.default_factory()
    return FieldPlan(
        name=each.name,
        json=camel(each.name),
        required=default is MISSING,
        default=default,
        decode=_decoder(hint),
    )


def _decoder(hint: Any) -> Callable[[Any], Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _decoder(next(each for each in arguments if each is not type(None)))
    if origin is tuple:
        item = _decoder(arguments[0])
        return lambda content: tuple(item(each) for each in content)
    if is_dataclass(hint) and isinstance(hint, type):
        return lambda content: from_json(hint, content)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint
    return _same


def _same(content: Any) -> Any:
    return content


def _encode(content: Any) -> Any:
    if is_dataclass(content):
        return to_json(content)
    if isinstance(content, tuple):
        return [_encode(each) for each in content]
    return content.value if isinstance(content, StrEnum) else content
