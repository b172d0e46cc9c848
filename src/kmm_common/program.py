"""How a program of KMM starts, with which exit code it refuses to, and when it ends."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from kmm_common import diagnosis, logs
from kmm_common.clock import SystemClock
from kmm_common.errors import KmmError
from kmm_common.reload import SettingsFile
from kmm_common.settings import ProgramSettings

WRONG_SETTINGS = 2
REFUSED = 1


S = TypeVar("S", bound=ProgramSettings)


def run_program(
    name: str,
    description: str,
    *,
    load: Callable[[Path], S],
    run: Callable[[SettingsFile[S]], None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a program to its end; return its exit code.

    `run` is given the file that the settings are from. It and `load` refuse by KmmError, which
    becomes one line on standard error.
    """
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--config", type=Path, required=True, help="YAML or JSON file of settings")
    parser.add_argument("--version", action="version", version=f"{name} {version('kmm')}")
    options = parser.parse_args(arguments)
    diagnosis.answer_before_the_loop()
    try:
        settings = SettingsFile(options.config, load, clock=SystemClock())
    except KmmError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return WRONG_SETTINGS
    _configure_logs(settings.current)
    settings.on_change(_configure_logs)
    try:
        run(settings)
    except (KmmError, OSError) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return REFUSED
    return 0


def _configure_logs(settings: ProgramSettings) -> None:
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logs.configure(as_json=settings.log_format == "json", level=level)


async def told_to_stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait for SIGTERM, SIGINT, or the end of a task that should not have ended.

    Meanwhile the signals that ask the program about itself are answered.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    diagnosis.answer_in_the_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    for task in tasks:
        task.add_done_callback(lambda _: stop.set())
    await stop.wait()
