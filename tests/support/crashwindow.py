"""Where in a Module's way into the kernel a daemon was killed, read from what it left behind."""

import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any

from kmm_common.desired import DesiredModule
from kmm_common.logs import Fact
from support import history


class Window(StrEnum):
    """Between two things that each are durable by themselves."""

    PULL_UNPACK = "between pull and unpack"
    UNPACK_RENAME = "between unpack and rename"
    RENAME_MODPROBE = "between rename and modprobe"
    MODPROBE_JOURNAL = "between modprobe and journal"
    JOURNAL_REPORT = "between journal and report"


def windows(root: Path, wanted: Iterable[DesiredModule]) -> set[Window]:
    """Return where the Modules of a node are; nowhere where all is done or nothing begun."""
    found = (_window(root, module) for module in wanted)
    return {window for window in found if window is not None}


def _window(root: Path, module: DesiredModule) -> Window | None:
    name, record = module.name, _record(root, module)
    if record is not None and record["module"]["config_hash"] == module.config_hash:
        return None if _reported(root, module) else Window.JOURNAL_REPORT
    if record is None and name in _kernel(root):
        return Window.MODPROBE_JOURNAL
    if any(_digest(meta) == module.image_digest for meta in root.glob("store/trees/*/meta.json")):
        return Window.RENAME_MODPROBE
    if any(root.glob(f"store/tmp/*/root/**/{name}.ko")):
        return Window.UNPACK_RENAME
    return Window.PULL_UNPACK if _pulled(root, module) else None


def _record(root: Path, module: DesiredModule) -> dict[str, Any] | None:
    journal = root / "run/journal.json"
    records = json.loads(journal.read_text())["body"]["records"] if journal.exists() else ()
    return next((each for each in records if each["module"]["name"] == module.name), None)


def _reported(root: Path, module: DesiredModule) -> bool:
    facts = history.facts(root / "daemon.log")
    said = [line["modules"] for line in facts if line["msg"] == Fact.REPORTED]
    newest = said[-1] if said else ()
    return any(
        (each["ref"], each["state"], each["hash"])
        == (str(module.ref), "Loaded", module.config_hash)
        for each in newest
    )


def _kernel(root: Path) -> set[str]:
    kept = root / "kernel.json"
    rows = json.loads(kept.read_text())[0] if kept.exists() else ()
    return {row["name"] for row in rows}


def _digest(meta: Path) -> str:
    return str(json.loads(meta.read_text())["digest"])


def _pulled(root: Path, module: DesiredModule) -> bool:
    blobs = root / "store/blobs/sha256"
    manifest = blobs / module.image_digest.removeprefix("sha256:")
    if not manifest.exists():
        return False
    layers = json.loads(manifest.read_text())["layers"]
    return all((blobs / layer["digest"].removeprefix("sha256:")).exists() for layer in layers)
