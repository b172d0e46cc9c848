"""Structural OpenAPI schemas, as CRDs need them, from pydantic models and from dataclasses."""

import ast
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from kmm_common.api.codec import field_plans

Schema = dict[str, Any]

_KEPT = (
    "type",
    "format",
    "description",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minimum",
    "maximum",
    "x-kubernetes-preserve-unknown-fields",
)
_PRIMITIVES: dict[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "format": "int64"},
}


def of_model(model: type[BaseModel]) -> Schema:
    """Return the schema of a pydantic model: references inlined, null left out."""
    document = model.model_json_schema(by_alias=True, mode="validation")
    return _inlined(document, document.get("$defs", {}))


def of_dataclass(cls: type[Any]) -> Schema:
    """Return the schema of a dataclass as kmm_common.api.codec writes it."""
    texts, hints = attribute_docstrings(cls), typing.get_type_hints(cls, include_extras=True)
    properties: Schema = {}
    for plan in field_plans(cls):
        described = {"description": texts[plan.name]} if plan.name in texts else {}
        properties[plan.json] = described | _of_hint(hints[plan.name])
    required = [plan.json for plan in field_plans(cls) if plan.required]
    schema: Schema = {"type": "object", "properties": properties}
    return {**schema, "required": required} if required else schema


def attribute_docstrings(cls: type[Any]) -> Mapping[str, str]:
    """Return the strings that stand below a class's fields, by field."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    statements = body.body if isinstance(body, ast.ClassDef) else []
    found: dict[str, str] = {}
    for field, text in itertools.pairwise(statements):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str() as words)),
            ):
                found[name] = inspect.cleandoc(words)
    return found


def _of_hint(hint: Any) -> Schema:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return {**_of_hint(arguments[0]), "format": arguments[1]}
    if origin is types.UnionType:
        return _of_hint(next(each for each in arguments if each is not type(None)))
    if origin is tuple:
        # Atomic: one writer, and half the API server's cost of a list of keyed items.
        items = _of_hint(arguments[0])
        return {"type": "array", "items": items, "x-kubernetes-list-type": "atomic"}
    if is_dataclass(hint) and isinstance(hint, type):
        return of_dataclass(hint)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {"type": "string", "enum": [each.value for each in hint]}
    return dict(_PRIMITIVES[hint])


def _inlined(schema: Schema, definitions: Schema) -> Schema:
    """Return the schema without references, unions with null, titles and defaults of absence."""
    if "$ref" in schema:
        named = _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        own = {"description": schema["description"]} if "description" in schema else {}
        return {**named, **own, **_default(schema)}
    if "anyOf" in schema:
        (choice,) = (each for each in schema["anyOf"] if each.get("type") != "null")
        own = {"description": schema["description"]} if "description" in schema else {}
        return {**_inlined(choice, definitions), **own}
    plain: Schema = {key: schema[key] for key in _KEPT if key in schema}
    if "const" in schema:
        plain["enum"] = [schema["const"]]
    if plain.get("type") == "integer":
        plain["format"] = "int64"
    return plain | _default(schema) | _inside(schema, definitions)


def _inside(schema: Schema, definitions: Schema) -> Schema:
    inside: Schema = {}
    if "properties" in schema:
        inside["properties"] = {
            name: _inlined(each, definitions) for name, each in schema["properties"].items()
        }
    if "required" in schema:
        inside["required"] = schema["required"]
    if "items" in schema:
        inside["items"] = _inlined(schema["items"], definitions)
    if isinstance(schema.get("additionalProperties"), dict):
        inside["additionalProperties"] = _inlined(schema["additionalProperties"], definitions)
    return inside


def _default(schema: Schema) -> Schema:
    """Return the default where it says something: an absent field stays absent in the object."""
    default = schema.get("default")
    return {"default": default} if default not in (None, "", [], {}, False, 0) else {}
