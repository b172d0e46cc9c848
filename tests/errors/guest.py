"""Runs on the node: provokes errors one by one with the daemon's own runner and ears.

Reads a list of `Trial`s from standard input, writes a list of `Observation`s to standard output.
"""

import asyncio
import sys
from dataclasses import dataclass

from pydantic import TypeAdapter

from kmm_daemon.kernel import usage
from kmm_daemon.kernel.kmsg import KernelLog, Record
from kmm_daemon.kernel.procfs import KernelFiles
from kmm_daemon.kernel.runner import Deadline, Runner
from kmm_daemon.values import KernelModule

DEADLINE = Deadline(seconds=120)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One error: command lines before it, that which fails, and those that tidy up."""

    name: str
    """kernel_name."""
    before: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]
    after: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What came of a trial."""

    exit_code: int | None
    signal: int | None
    stderr: str
    kernel_log: tuple[Record, ...]
    row: KernelModule | None
    users: tuple[str, ...]
    modules_disabled: bool


TRIALS: TypeAdapter[tuple[Trial, ...]] = TypeAdapter(tuple[Trial, ...])
OBSERVATIONS: TypeAdapter[tuple[Observation, ...]] = TypeAdapter(tuple[Observation, ...])


async def observe(trial: Trial) -> Observation:
    """Provoke one error."""
    for command in trial.before:
        await _required(command)
    with KernelLog.from_now() as listening:
        completed = await Runner().run(trial.command, DEADLINE)
        records = listening.records()
    files = KernelFiles()
    row = files.modules().get(trial.name)
    observation = Observation(
        exit_code=completed.exit_code,
        signal=completed.signal,
        stderr=completed.stderr,
        kernel_log=records,
        row=row,
        users=usage.users(trial.name) if row else (),
        modules_disabled=files.modules_disabled(),
    )
    for command in trial.after:
        await _required(command)
    return observation


async def _required(command: tuple[str, ...]) -> None:
    completed = await Runner().run(command, DEADLINE)
    assert completed.ok, f"{' '.join(command)}: {completed.stderr}"


async def main() -> None:
    observations = [await observe(trial) for trial in TRIALS.validate_json(sys.stdin.read())]
    print(OBSERVATIONS.dump_json(tuple(observations)).decode())


if __name__ == "__main__":
    asyncio.run(main())
