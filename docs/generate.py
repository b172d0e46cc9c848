"""Writes docs/reference/settings.md from the settings models; --check compares instead."""

import sys
from pathlib import Path
from typing import Any

import kmm_cp.settings
import kmm_daemon.settings
from kmm_common.settings import Strict

PAGE = Path(__file__).parent / "reference/settings.md"

HEAD = """# Settings

Each program reads one YAML file (`--config FILE`). A variable of the environment overrides a
setting: its prefix and the setting's name in capitals, with a YAML value. An unknown or wrong
setting ends the start with exit code 2 and the setting's name.

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
    schema = model.model_json_schema()
    lines = [
        f"\n## {name}\n",
        f"Prefix: `{prefix}`.\n",
        "| setting | default | meaning |",
        "|---|---|---|",
        *_rows(schema, schema.get("$defs", {}), ""),
    ]
    return "\n".join(lines) + "\n"


def _rows(schema: dict[str, Any], definitions: dict[str, Any], prefix: str) -> list[str]:
    rows: list[str] = []
    for name, field in schema["properties"].items():
        if "$ref" in field:
            inner = definitions[field["$ref"].rpartition("/")[2]]
            rows += _rows(inner, definitions, f"{prefix}{name}.")
            continue
        default = f"`{field['default']}`" if field.get("default") not in (None, "") else ""
        if name in schema.get("required", ()):
            default = "required"
        meaning = " ".join(field.get("description", "").split())
        rows.append(f"| `{prefix}{name}` | {default} | {meaning} |")
    return rows


def main() -> int:
    """Write the page, or with --check tell whether it is up to date."""
    if sys.argv[1:] == ["--check"]:
        if PAGE.read_text() == page():
            return 0
        sys.stderr.write("docs/reference/settings.md is not what the settings are: make generate\n")
        return 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
