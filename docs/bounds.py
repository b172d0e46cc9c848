"""Makes docs/reference/bounds.md of the schema of a Module."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kmm_common.api import crd

PAGE = Path(__file__).parent / "reference/bounds.md"

HEAD = """# Bounds of a Module

What a Module's fields may hold, as its CustomResourceDefinition says. The API server refuses what
is beyond. It estimates the cost of [rules](validation.md) by the longest lists and strings, so
without bounds it would not take the rules. `[]` stands for each element of a list.

| field | at most | besides |
|---|---|---|
"""

TAIL = """
A field that is not listed has no bound of its own: the API server's on a whole object, about
1.5 MiB, is left.

This page is generated from the code.
"""


def page() -> str:
    """Return the page's text."""
    root = crd.module()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    rows = (
        f"| `{path}` | {most} | {more} |"
        for path, most, more in _bounds(root["properties"]["spec"])
    )
    return HEAD + "\n".join(rows) + "\n" + TAIL


def _bounds(schema: dict[str, Any], path: str = "spec") -> Iterator[tuple[str, str, str]]:
    """Yield path, bound and what else holds, of each field that is bound."""
    most = {"maxItems": "elements", "maxLength": "characters"}
    bounds = [f"{schema[key]} {unit}" for key, unit in most.items() if key in schema]
    more = [f"{schema['minItems']} at least"] if "minItems" in schema else []
    more += [f"`{value}`" for value in schema.get("enum", ())]
    more += [f"`{schema['pattern']}`"] if "pattern" in schema else []
    if bounds or more:
        yield path, ", ".join(bounds), ", ".join(more)
    for name, inner in schema.get("properties", {}).items():
        yield from _bounds(inner, f"{path}.{name}")
    if "items" in schema:
        yield from _bounds(schema["items"], f"{path}[]")
