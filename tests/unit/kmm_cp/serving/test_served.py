import asyncio
import logging
from collections.abc import AsyncIterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.errors import TransientError
from kmm_cp.serving.served import PAUSE_SECONDS, Served, nodes_in, pages
from support.virtualclock import VirtualClock, rest

NAMES = st.sets(st.text("abc-.0", min_size=1, max_size=12), max_size=40)


@given(NAMES, st.integers(1, 60))
def test_pages_list_every_node_once_within_the_limit(nodes: set[str], limit: int) -> None:
    made = pages("replica", nodes, limit)
    listed = [name for page in made for name in page.data["nodes"].split()]
    assert sorted(listed) == sorted(nodes)
    assert frozenset().union(*(nodes_in(page.data) for page in made)) == nodes
    assert len({page.name for page in made}) == len(made) >= 1
    for page in made:
        text = page.data["nodes"]
        assert len(text) <= limit or "\n" not in text


def test_config_map_without_the_key_lists_nothing() -> None:
    assert nodes_in({}) == frozenset()


class Maps:
    """ConfigMaps, and who is served."""

    def __init__(self) -> None:
        self.maps: dict[str, Mapping[str, str]] = {}
        self.writes = 0
        self.away = False
        self.live: frozenset[str] = frozenset()
        self.listener = lambda: None

    def on_change(self, listener: object) -> None:
        self.listener = listener  # type: ignore[assignment]

    def nodes(self) -> frozenset[str]:
        return self.live

    def serve(self, *nodes: str) -> None:
        self.live = frozenset(nodes)
        self.listener()

    async def apply(self, name: str, data: Mapping[str, str]) -> None:
        self._check()
        self.maps[name] = data

    async def delete(self, name: str) -> None:
        self._check()
        del self.maps[name]

    def _check(self) -> None:
        if self.away:
            raise TransientError("away")
        self.writes += 1


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def maps() -> Maps:
    return Maps()


@pytest.fixture
async def served(maps: Maps, clock: VirtualClock) -> AsyncIterator[Served]:
    served = Served(replica="r", sessions=maps, config_maps=maps, clock=clock)  # type: ignore[arg-type]
    task = asyncio.create_task(served.run())
    await rest()
    yield served
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_changes_are_written_at_most_once_in_five_seconds(
    maps: Maps, clock: VirtualClock, served: Served
) -> None:
    assert maps.maps == {"kmm-served-r-0": {"nodes": ""}}
    for number in range(10):
        maps.serve("a", f"b{number}")
        await clock.advance(0.1)
    assert maps.writes == 1
    await clock.advance(PAUSE_SECONDS)
    assert maps.writes == 2
    assert maps.maps == {"kmm-served-r-0": {"nodes": "a\nb9"}}


async def test_nothing_is_written_when_nothing_changed(
    maps: Maps, clock: VirtualClock, served: Served
) -> None:
    await clock.advance(60.0)
    maps.serve()
    await clock.advance(60.0)
    assert maps.writes == 1


async def test_what_could_not_be_written_is_written_later_and_told_once(
    maps: Maps, clock: VirtualClock, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await clock.advance(PAUSE_SECONDS)
    maps.away = True
    maps.serve("a")
    await clock.advance(60.0)
    assert caplog.messages == ["served nodes not listed"]
    maps.away = False
    await clock.advance(PAUSE_SECONDS)
    assert maps.maps == {"kmm-served-r-0": {"nodes": "a"}}


async def test_list_that_was_being_written_when_all_was_to_be_is_written_again(
    maps: Maps, clock: VirtualClock, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etcd was restored, or somebody has removed the list, before or after it was written."""
    apply, answered = maps.apply, asyncio.Event()

    async def slow(name: str, data: Mapping[str, str]) -> None:
        await apply(name, data)
        await answered.wait()

    monkeypatch.setattr(maps, "apply", slow)
    await clock.advance(PAUSE_SECONDS)
    maps.serve("a")
    await rest()
    maps.maps.clear()
    served.renew()
    answered.set()
    await clock.advance(PAUSE_SECONDS)
    assert maps.maps == {"kmm-served-r-0": {"nodes": "a"}}


async def test_withdrawal_deletes_what_was_written(maps: Maps, served: Served) -> None:
    await served.withdraw()
    assert maps.maps == {}
