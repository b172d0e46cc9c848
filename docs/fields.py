"""Makes docs/reference/api.md of the schemas of the two CustomResourceDefinitions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kmm_common.api import crd, names

PAGE = Path(__file__).parent / "reference/api.md"

HEAD = f"""# API

Two kinds of `{names.API_VERSION}`. The same is shown by `kubectl explain module.spec` and
`kubectl explain nodemodulesstate.status`. `[]` stands for each element of a list. A field without
a default that is left out counts as empty, 0 or false. What is "not acted on yet" is taken, with
all that is below it, and does nothing; the Module's condition `NotActedOn` names it.

[What the fields may hold](bounds.md), [what is refused, in which words](validation.md),
[labels, annotations and finalizers](labels.md),
[conditions and events](conditions-and-events.md).

This page is generated from the code.
"""

MODULE = """
A user writes it, in any namespace, or a GitOps tool. The control plane writes its status, a
finalizer and one annotation. The API is upstream KMM's; its status has more fields.
"""

STATE = """
One for each Node, of the Node's name. The control plane creates and writes it, and nobody else
should: what others write is put right. It goes with its Node, which owns it.
"""


def page() -> str:
    """Return the page's text."""
    parts = (
        ("Module", MODULE, crd.module()),
        ("NodeModulesState", STATE, crd.node_modules_state()),
    )
    return HEAD + "".join(_kind(*part) for part in parts)


def _kind(kind: str, text: str, definition: dict[str, Any]) -> str:
    spec = definition["spec"]
    (version,) = spec["versions"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    short = "".join(f", or `{name}`" for name in spec["names"].get("shortNames", ()))
    columns = (f"`{one['name']}`" for one in version["additionalPrinterColumns"])
    head = [
        f"\n## {kind}",
        text,
        f"Scope: {spec['scope']}. `kubectl get {spec['names']['singular']}`{short}, shows",
        f"{', '.join(columns)} (some only with `-o wide`).",
        "",
    ]
    tables = (_table(kind, part, properties[part]) for part in ("spec", "status"))
    return "\n".join(head) + "".join(tables)


def _table(kind: str, part: str, schema: dict[str, Any]) -> str:
    rows = (
        f"| `{path}` | {type_} | {value} | {text} |" for path, type_, value, text in _in(schema)
    )
    heads = ["| field | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"\n### {part} of a {kind}\n", *heads, *rows, ""])


def _in(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield path, type, default and meaning of every field below a schema."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        here = f"{path}{name}"
        value = _default(field, required=name in required)
        yield here, _type(field), value, _meaning(field["description"])
        inner = field.get("items", field)
        # A type of Kubernetes' own is in Kubernetes' own reference.
        if not inner.get("x-kubernetes-preserve-unknown-fields"):
            yield from _in(inner, f"{here}[]." if "items" in field else f"{here}.")


def _type(field: dict[str, Any]) -> str:
    if "items" in field:
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map to {_type(field['additionalProperties'])}"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    return "time" if field.get("format") == "date-time" else str(field["type"])


def _default(field: dict[str, Any], *, required: bool) -> str:
    if required:
        return "required"
    return f"`{field['default']}`" if "default" in field else ""


def _meaning(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "\\<").split())
