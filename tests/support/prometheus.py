"""Debian's Prometheus: its server, and promtool."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kmm_sandbox.machine import install_missing
from kmm_sandbox.progress import Progress

PACKAGES = {"prometheus": "prometheus", "promtool": "prometheus"}
LIMIT_SECONDS = 120.0


def prometheus_installed() -> None:
    """Install it if this machine has none. SandboxError if it cannot be."""
    install_missing(PACKAGES, Progress())


def promtool(*words: str | Path, told: str = "") -> str:
    """Run promtool; return what it said. AssertionError with that if it is not content."""
    ran = subprocess.run(
        ["promtool", *map(str, words)],
        input=told,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    said = f"{ran.stdout}{ran.stderr}"
    assert ran.returncode == 0, said
    return said


def written(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a YAML file; return its path."""
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
