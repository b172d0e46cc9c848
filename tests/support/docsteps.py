"""Commands of a page of the docs, as a reader runs them."""

import re
import shlex
from pathlib import Path


def commands(page: Path, heading: str) -> list[str]:
    """Return the commands in the blocks of a section of a page."""
    section = page.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    found = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    assert found
    return found


def arguments(command: str) -> list[str]:
    """Return what follows `kubectl` in a command."""
    program, *rest = shlex.split(command)
    assert program == "kubectl"
    return rest
