"""Print what the .modinfo of each test module says, as JSON: {"kmt_core.ko": {"vermagic": ...}}."""

import json
import subprocess
import sys
from pathlib import Path

FIELDS = ("name", "vermagic", "srcversion", "version", "depends")


def field(module: Path, name: str) -> str:
    command = ["/sbin/modinfo", "-F", name, str(module)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.rstrip("\n")


def main(directory: Path) -> None:
    modules = sorted(directory.rglob("*.ko"))
    facts = {
        str(module.relative_to(directory)): {name: field(module, name) for name in FIELDS}
        for module in modules
    }
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
