"""Writes the pages of docs/reference that are made of code; --check compares instead."""

import ast
import inspect
import sys
from itertools import pairwise
from pathlib import Path
from typing import cast, get_args

import kmm_cp.settings
import kmm_daemon.settings
from docs import bounds, fields, rbac
from kmm_common.settings import Strict, is_reloadable

PAGE = Path(__file__).parent / "reference/settings.md"

HEAD = """# Settings

Each program reads one file of YAML or JSON (`--config FILE`). A variable of the environment
overrides a setting: its prefix and the setting's name in capitals, with a value in YAML or JSON.
An unknown or wrong setting, or one that is given twice, ends the start with exit code 2 and the
setting's name. The daemon's file is best kept in JSON: it loads PyYAML only for what is no JSON,
and keeps 1 MiB less in memory on every node.

The file is looked at every ten seconds. A change of a setting that needs no restart is taken then,
also where kubelet swaps a mounted ConfigMap; one that needs a restart waits for it, and the log
names it (`settings wait for a restart`). A file that has become wrong changes nothing: the log
says why, once, and the metric `kmm_cp_config_last_reload_successful` or
`kmm_daemon_config_last_reload_successful` is 0 until it is right. Variables of the environment hold
until the program ends.

This page is generated from the code.
"""


def page() -> str:
    """Return the page's text."""
    programs: list[tuple[str, str, type[Strict]]] = [
        ("kmm-cp", kmm_cp.settings.PREFIX, kmm_cp.settings.Settings),
        ("kmm-daemon", kmm_daemon.settings.PREFIX, kmm_daemon.settings.Settings),
    ]
    return HEAD + "".join(_section(name, prefix, model) for name, prefix, model in programs)


def _section(name: str, prefix: str, model: type[Strict]) -> str:
    lines = [
        f"\n## {name}\n",
        f"Prefix: `{prefix}`.\n",
        "| setting | default | restart | meaning |",
        "|---|---|---|---|",
        *_rows(model, ""),
    ]
    return "\n".join(lines) + "\n"


def _rows(model: type[Strict], prefix: str) -> list[str]:
    schema, meanings = model.model_json_schema(), _meanings(model)
    rows: list[str] = []
    for name, field in schema["properties"].items():
        inner = _inner(model.model_fields[name].annotation)
        if inner and "$ref" in field:
            rows += _rows(inner, f"{prefix}{name}.")
            continue
        default = f"`{field['default']}`" if field.get("default") not in (None, "") else ""
        if name in schema.get("required", ()):
            default = "required"
        restart = "no" if is_reloadable(model, name) else "yes"
        rows.append(f"| `{prefix}{name}` | {default} | {restart} | {meanings[name]} |")
        if inner:
            rows += _rows(inner, f"{prefix}{name}.")
    return rows


def _inner(annotation: object) -> type[Strict] | None:
    """Return the settings within a setting, also of one that may be left out."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, Strict):
            return each
    return None


def _meanings(model: type[Strict]) -> dict[str, str]:
    """Return the text under each field; a field without one is a KeyError.

    pydantic can do it, too, but then every start of a daemon would parse its own source.
    """
    found = _meanings(cast(type[Strict], model.__base__)) if model.__base__ is not Strict else {}
    (definition,) = ast.parse(inspect.getsource(model)).body
    for field, text in pairwise(cast(ast.ClassDef, definition).body):
        match field, text:
            case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(meaning))):
                found[name] = " ".join(meaning.split())
    return found


def main() -> int:
    """Write the pages, or with --check tell whether they are up to date."""
    pages = {PAGE: page()} | {each.PAGE: each.page() for each in (bounds, fields, rbac)}
    if sys.argv[1:] == ["--check"]:
        stale = [
            path.name
            for path, text in pages.items()
            if not path.exists() or path.read_text() != text
        ]
        if stale:
            sys.stderr.write(f"docs/reference: {', '.join(stale)} are out of date: make generate\n")
        return int(bool(stale))
    for path, text in pages.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
