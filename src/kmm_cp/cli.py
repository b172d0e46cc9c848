"""kmm-cp: the control plane's command line."""

import argparse
import asyncio
import sys
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kmm_common import logs
from kmm_common.errors import KmmError
from kmm_cp import settings
from kmm_cp.roles import standalone


def main(arguments: list[str] | None = None) -> int:
    """Run the control plane; exit code 2 for wrong settings, 1 for any other refusal to start."""
    parser = argparse.ArgumentParser(prog="kmm-cp", description="KMM's control plane")
    parser.add_argument("--config", type=Path, required=True, help="YAML file of settings")
    parser.add_argument("--version", action="version", version=f"kmm-cp {version('kmm')}")
    options = parser.parse_args(arguments)
    try:
        chosen = settings.load(options.config)
    except KmmError as error:
        sys.stderr.write(f"kmm-cp: {error}\n")
        return 2
    logs.configure(as_json=chosen.log_format == "json")
    try:
        _run(standalone.run(chosen))
    except (KmmError, OSError) as error:
        sys.stderr.write(f"kmm-cp: {error}\n")
        return 1
    return 0


def _run(main_task: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main_task)
    else:
        uvloop.run(main_task)


if __name__ == "__main__":
    sys.exit(main())
