"""How soon a daemon has its desired state while thousands of connections want nothing."""

import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figure
from support.crowds import CROWD, CROWDS, gathered, many_files
from support.desired import desired
from support.link import Holder, linked
from support.servedalone import ServedAlone, served_alone
from support.serving import until

ROUNDS = 5


def run() -> list[Figure]:
    """Return the figures of one replica in a process of its own."""
    with many_files():
        return asyncio.run(_run())


async def _run() -> list[Figure]:
    with tempfile.TemporaryDirectory() as scratch:
        async with served_alone(Path(scratch)) as served:
            alone = await _worst(served)
            beside = {name: await _beside(served, name) for name in CROWDS}
    return [
        Figure(
            figure=f"a daemon's first state beside {CROWD} connections, {name}, worst of {ROUNDS}",
            value=seconds,
            unit="s",
            reference="without them, worst",
            reference_value=alone,
        )
        for name, seconds in beside.items()
    ]


async def _beside(served: ServedAlone, name: str) -> float:
    async with gathered(served, CROWDS[name], CROWD):
        return await _worst(served)


async def _worst(served: ServedAlone) -> float:
    return max([await _seconds(served) for _ in range(ROUNDS)])


async def _seconds(served: ServedAlone) -> float:
    """Return the time from a daemon's first attempt to connect to a state that it holds."""
    holder, started = Holder(), time.monotonic()
    async with linked(served.port, served.files, holder):
        await until(lambda: holder.holds(1, desired("one")))
        return time.monotonic() - started
