"""Thousands of connections that want nothing: memory stays bounded, and a daemon is served."""

from pathlib import Path

import pytest

from support.crowds import CROWD, CROWDS, Crowd, gathered, many_files
from support.desired import desired
from support.link import Holder, linked
from support.servedalone import served_alone
from support.serving import until

MIB = 2**20
FEWER_WITH_TLS = 2_000
"""Both sides of it have to calculate; all of them come at night."""
GROWTH_BYTES = 64 * MIB


@pytest.mark.parametrize("crowd", CROWDS.values(), ids=CROWDS)
async def test_crowd_costs_little_is_told_of_little_and_keeps_no_daemon_out(
    tmp_path: Path, crowd: Crowd
) -> None:
    await hold(tmp_path, crowd, FEWER_WITH_TLS if crowd.tls else CROWD)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name, crowd in CROWDS.items() if crowd.tls])
async def test_whole_crowd_with_tls_costs_little_either(tmp_path: Path, name: str) -> None:
    await hold(tmp_path, CROWDS[name], CROWD)


async def hold(directory: Path, crowd: Crowd, number: int) -> None:
    """Have so many connections at once, look at the server, and have a daemon come."""
    with many_files():
        async with served_alone(directory) as served:
            async with gathered(served, crowd, 10):
                before = served.resident_bytes()
            async with gathered(served, crowd, number):
                grown = served.resident_bytes() - before
                assert grown <= GROWTH_BYTES, f"{grown / MIB:.0f} MiB for {number} connections"
                holder = Holder()
                async with linked(served.port, served.files, holder):
                    await until(lambda: holder.holds(1, desired("one")))
            assert served.lines("peer refused") <= crowd.refused
