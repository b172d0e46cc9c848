"""kmm-daemon: the daemon's command line."""

import argparse
import asyncio
import sys
from importlib.metadata import version
from pathlib import Path

from kmm_common import logs
from kmm_common.errors import KmmError
from kmm_daemon import app, settings


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon; exit code 2 for wrong settings, 1 for any other refusal to start."""
    parser = argparse.ArgumentParser(prog="kmm-daemon", description="KMM's daemon of one node")
    parser.add_argument("--config", type=Path, required=True, help="YAML file of settings")
    parser.add_argument("--version", action="version", version=f"kmm-daemon {version('kmm')}")
    options = parser.parse_args(arguments)
    try:
        chosen = settings.load(options.config)
    except KmmError as error:
        sys.stderr.write(f"kmm-daemon: {error}\n")
        return 2
    logs.configure(as_json=chosen.log_format == "json")
    try:
        asyncio.run(app.run(chosen))
    except (KmmError, OSError) as error:
        sys.stderr.write(f"kmm-daemon: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
