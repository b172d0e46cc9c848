"""How a program of KMM starts, with which exit code it refuses to, and when it ends."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar

from kmm_common import logs
from kmm_common.errors import KmmError

WRONG_SETTINGS = 2
REFUSED = 1


class ProgramSettings(Protocol):
    """What every program lets an administrator set."""

    @property
    def log_format(self) -> str: ...


S = TypeVar("S", bound=ProgramSettings)


def run_program(
    name: str,
    description: str,
    *,
    load: Callable[[Path], S],
    run: Callable[[S], None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a program to its end; return its exit code.

    `load` and `run` refuse by KmmError, which becomes one line on standard error.
    """
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--config", type=Path, required=True, help="YAML or JSON file of settings")
    parser.add_argument("--version", action="version", version=f"{name} {version('kmm')}")
    options = parser.parse_args(arguments)
    try:
        settings = load(options.config)
    except KmmError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return WRONG_SETTINGS
    logs.configure(as_json=settings.log_format == "json")
    try:
        run(settings)
    except (KmmError, OSError) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return REFUSED
    return 0


async def told_to_stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait for SIGTERM, SIGINT, or the end of a task that should not have ended."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    for task in tasks:
        task.add_done_callback(lambda _: stop.set())
    await stop.wait()
