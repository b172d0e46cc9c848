"""What a running control plane tells of itself at a signal, on the event loop that it has."""

import asyncio
import signal
from typing import Any

from kmm_sandbox.kubeapi import Object
from support.fleet import Fleet, eventually
from support.kmmcp import KmmCp


async def _told(fleet: Fleet, message: str, *, count: int = 1) -> list[Object]:
    control_plane: Any = fleet.control_plane

    async def look() -> list[Object]:
        return await asyncio.to_thread(control_plane.told, message)

    return await eventually(look, lambda lines: len(lines) >= count, what=message)


def _send(fleet: Fleet, number: signal.Signals) -> None:
    assert isinstance(fleet.control_plane, KmmCp)
    assert fleet.control_plane.process is not None
    fleet.control_plane.process.signal(number)


async def test_control_plane_tells_its_threads_and_tasks_and_goes_on(fleet: Fleet) -> None:
    node = await fleet.node()
    _send(fleet, signal.SIGUSR1)
    (end,) = await _told(fleet, "tasks told")
    told = await _told(fleet, "task", count=end["tasks"])
    stacks = {line["name"]: line["stack"] for line in told}
    assert stacks["lateness"][0].startswith("kmm_cp.runtime.supervision.kept_up:")
    assert "kmm_cp.runtime.lateness.Lateness.run" in "\n".join(stacks["lateness"])
    assert "most recent call first" in fleet.control_plane.log.read_text()
    await fleet.apply()
    await fleet.loaded(node)


async def test_control_plane_profiles_itself_and_goes_on(fleet: Fleet) -> None:
    node = await fleet.node()
    _send(fleet, signal.SIGUSR2)
    await _told(fleet, "profile begun")
    await fleet.apply()
    await fleet.loaded(node)
    _send(fleet, signal.SIGUSR2)
    (ended,) = await _told(fleet, "profile ended")
    told = await _told(fleet, "profiled")
    seen = sum(line["samples"] for line in told if line["stack"].startswith("MainThread;"))
    assert 0 < seen <= ended["samples"]
