"""Print what modinfo and readelf say of each test module: {"kmt_core.ko": {"vermagic": ...}}."""

import json
import re
import subprocess
import sys
from pathlib import Path

FIELDS = ("name", "vermagic", "srcversion", "version", "depends")


def field(module: Path, name: str) -> str:
    command = ["/sbin/modinfo", "-F", name, str(module)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.rstrip("\n")


def build_id(module: Path) -> str:
    command = ["readelf", "-n", str(module)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Build ID: ([0-9a-f]+)", told)
    return found[1] if found else ""


def main(directory: Path) -> None:
    modules = sorted(directory.rglob("*.ko"))
    facts = {
        str(module.relative_to(directory)): {
            **{name: field(module, name) for name in FIELDS},
            "build_id": build_id(module),
        }
        for module in modules
    }
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
