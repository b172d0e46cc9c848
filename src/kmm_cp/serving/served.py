"""Lists the nodes that this replica serves in ConfigMaps of its own."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from kmm_common.clock import Clock
from kmm_common.errors import KmmError
from kmm_common.logs import log
from kmm_cp.serving.sessions import Sessions

logger = logging.getLogger(__name__)

PREFIX = "kmm-served-"
KEY = "nodes"
"""Of a ConfigMap's data: names, ordered, one a line."""
MAP_BYTES = 512 * 2**10
"""A ConfigMap holds at most 1 MiB."""
PAUSE_SECONDS = 5.0
WRITE_SECONDS = 10.0


class ConfigMaps(Protocol):
    """Writes ConfigMaps in the operator's namespace."""

    async def apply(self, name: str, data: Mapping[str, str]) -> None:
        """Create or replace a ConfigMap of this replica. Raises KmmError."""
        ...

    async def delete(self, name: str) -> None:
        """Delete a ConfigMap, if it is there. Raises KmmError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One ConfigMap."""

    name: str
    data: Mapping[str, str]


def pages(replica: str, nodes: Iterable[str], limit: int = MAP_BYTES) -> tuple[Page, ...]:
    """Return the ConfigMaps that list the nodes; at least one, which may be empty."""
    groups: list[list[str]] = [[]]
    size = 0
    for node in sorted(nodes):
        size += len(node) + 1
        if size > limit and groups[-1]:
            groups.append([])
            size = len(node) + 1
        groups[-1].append(node)
    return tuple(
        Page(name=f"{PREFIX}{replica}-{number}", data={KEY: "\n".join(group)})
        for number, group in enumerate(groups)
    )


def replica_of(name: str) -> str:
    """Return whose list a ConfigMap is, by its name."""
    return name.removeprefix(PREFIX).rpartition("-")[0]


def nodes_in(data: Mapping[str, str]) -> frozenset[str]:
    """Return the nodes that a ConfigMap lists."""
    return frozenset(data.get(KEY, "").split())


class Served:
    """Keeps the ConfigMaps true: written when they change, at most once in five seconds."""

    def __init__(
        self, *, replica: str, sessions: Sessions, config_maps: ConfigMaps, clock: Clock
    ) -> None:
        self._replica = replica
        self._sessions = sessions
        self._config_maps = config_maps
        self._clock = clock
        self._written: dict[str, Mapping[str, str]] = {}
        self._changed = asyncio.Event()
        self._changed.set()
        sessions.on_change(self._changed.set)

    async def run(self) -> None:
        """Write until cancelled."""
        problem = ""
        while True:
            await self._changed.wait()
            self._changed.clear()
            problem = await self._attempt(problem)
            await self._clock.sleep(PAUSE_SECONDS)

    def renew(self) -> None:
        """Write all anew: somebody may have removed it, or put an older one there."""
        # Not cleared: a write that is under way notes what it wrote before this.
        self._written = {}
        self._changed.set()

    async def withdraw(self) -> None:
        """Delete the ConfigMaps: this replica serves nobody any more. Raises KmmError."""
        for name in list(self._written):
            async with asyncio.timeout(WRITE_SECONDS):
                await self._config_maps.delete(name)
            del self._written[name]

    async def _attempt(self, problem_before: str) -> str:
        try:
            await self._write()
        except (KmmError, TimeoutError) as error:
            self._changed.set()
            problem = str(error) or "timed out"
            if problem != problem_before:
                log(logger, logging.WARNING, "served nodes not listed", error=problem)
            return problem
        return ""

    async def _write(self) -> None:
        written = self._written
        wanted = {page.name: page.data for page in pages(self._replica, self._sessions.nodes())}
        for name, data in wanted.items():
            if written.get(name) != data:
                async with asyncio.timeout(WRITE_SECONDS):
                    await self._config_maps.apply(name, data)
                written[name] = data
        for name in written.keys() - wanted.keys():
            async with asyncio.timeout(WRITE_SECONDS):
                await self._config_maps.delete(name)
            del written[name]
