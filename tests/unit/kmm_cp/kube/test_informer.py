"""What a cache holds and tells, and how long it waits, whatever comes in which order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from kmm_common.backoff import Backoff
from kmm_common.errors import KmmError
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.errors import ForbiddenError, GoneError, TooManyRequestsError, UnavailableError
from kmm_cp.kube.history import History
from kmm_cp.kube.informer import Change, Informer, Pace
from kmm_cp.kube.resources import MODULES
from support.virtualclock import VirtualClock, rest

Object = dict[str, Any]
PACE = Pace(backoff=Backoff(1.0, 8.0, jitter=0.0))


def thing(name: str, version: int, **fields: Any) -> Object:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, **fields}


def event(kind: str, name: str, version: int, **fields: Any) -> Object:
    return {"type": kind, "object": thing(name, version, **fields)}


def page(version: int, *items: Object) -> Object:
    return {"metadata": {"resourceVersion": str(version)}, "items": list(items)}


def decode(content: Object) -> int:
    if content.get("bad"):
        raise ValueError("field bad: remove it")
    return int(content["metadata"]["resourceVersion"])


@dataclass(slots=True)
class Script(KubeClient):
    """An API server that says what a test has written down, then nothing.

    A list is a series of pages, a watch a series of events; both may end in an error.
    """

    clock: VirtualClock
    lists: list[list[Object | KmmError]] = field(default_factory=list)
    watches: list[list[Object | KmmError | float | None]] = field(default_factory=list)
    """None: the server ends the watch; a number: it says nothing for so many seconds."""
    first_items: list[Object | KmmError] = field(default_factory=list)
    """Answers to looks; then those of a server that has come further, with what it has said."""
    looks: int = 0
    """Lists of one item."""
    said: dict[str, Object] = field(default_factory=dict)
    """What lists and watches have brought last of each object."""
    watched_from: list[str] = field(default_factory=list)
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    """Pages after the first one wait for it."""
    looking: asyncio.Event = field(default_factory=asyncio.Event)
    """Looks wait for it; set."""
    open: int = 0
    """Watches that are open."""

    def __post_init__(self) -> None:
        self.looking.set()

    async def pages(
        self, resource: Any, *, limit: int = 0, name: str = "", **where: Any
    ) -> AsyncGenerator[Object, None]:
        if limit == 1:
            await self.looking.wait()
        answers = self._look(name) if limit == 1 else self.lists.pop(0)
        for number, each in enumerate(answers):
            if number:
                await self.turn.wait()
            if isinstance(each, KmmError):
                raise each
            self.said.update({item["metadata"]["name"]: item for item in each["items"]})
            yield each

    def _look(self, name: str) -> list[Object | KmmError]:
        self.looks += 1
        said = [self.said[name]] if name in self.said else []
        return [self.first_items.pop(0) if self.first_items else page(10**9, *said)]

    async def watch(
        self, resource: Any, *, resource_version: str, **where: Any
    ) -> AsyncGenerator[Object, None]:
        self.watched_from.append(resource_version)
        self.open += 1
        try:
            for each in self.watches.pop(0) if self.watches else []:
                if isinstance(each, KmmError):
                    raise each
                if each is None:
                    return
                if isinstance(each, float):
                    await self.clock.sleep(each)
                else:
                    self._say(each)
                    yield each
            await asyncio.Event().wait()
        finally:
            self.open -= 1

    def _say(self, event: Object) -> None:
        name = event["object"].get("metadata", {}).get("name", "")
        match event["type"]:
            case "ADDED" | "MODIFIED":
                self.said[name] = event["object"]
            case "DELETED":
                del self.said[name]


@dataclass(slots=True)
class World:
    clock: VirtualClock = field(default_factory=VirtualClock)
    server: Script = field(init=False)
    changes: list[Change[int]] = field(default_factory=list)
    history: History = field(default_factory=History)
    informer: Informer[int] = field(init=False)

    def __post_init__(self) -> None:
        self.server = Script(self.clock)
        self.informer = Informer(
            self.server, MODULES, decode, clock=self.clock, pace=PACE, history=self.history
        )
        self.informer.add_handler(self.changes.append)

    @property
    def cache(self) -> dict[str, int]:
        return dict(self.informer.store)

    def told(self, name: str) -> list[tuple[int | None, int | None]]:
        return [(each.old, each.new) for each in self.changes if each.key == name]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.informer.run())
        try:
            await rest()
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
        assert task.cancelled()
        assert self.server.open == 0


async def test_list_then_watch_from_where_it_was() -> None:
    world = World()
    world.server.lists = [[page(10, thing("a", 3)), page(10, thing("b", 4))]]
    world.server.turn.set()
    world.server.watches = [[event("ADDED", "c", 11), event("DELETED", "a", 12)]]
    async with world.running():
        assert world.informer.synced.is_set()
        assert world.cache == {"b": 4, "c": 11}
        assert world.server.watched_from == ["10"]
    assert [(each.key, each.fresh) for each in world.changes] == [
        ("a", False),
        ("b", False),
        ("c", True),
        ("a", True),
    ]


@pytest.mark.parametrize(
    ("error", "pauses"),
    [
        (UnavailableError("away"), [1, 2, 4, 8, 8]),
        (ForbiddenError("no right"), [1, 2, 4, 8, 8]),
        (GoneError("too old"), [1, 2, 4, 8, 8]),
        (TooManyRequestsError("busy", retry_after=5.0), [5, 5, 5, 8, 8]),
        (TooManyRequestsError("busy", retry_after=60.0), [60] * 5),
    ],
    ids=["unavailable", "forbidden", "gone", "busy", "very busy"],
)
async def test_failed_lists_are_repeated_with_bounded_pauses(
    error: KmmError, pauses: list[float]
) -> None:
    world = World()
    failures: list[list[Object | KmmError]] = [[error] for _ in pauses]
    world.server.lists = [*failures, [page(10)]]
    async with world.running():
        for number, pause in enumerate(pauses):
            assert len(world.server.lists) == len(pauses) - number
            await world.clock.advance(pause)
        assert world.informer.synced.is_set()


async def test_watch_that_says_something_makes_the_next_pause_short() -> None:
    world = World()
    world.server.lists = [[page(10)]]
    away = UnavailableError("away")
    bookmark = event("BOOKMARK", "", 11)
    world.server.watches = [[away], [away], [bookmark, away], [away]]
    async with world.running():
        await world.clock.advance(1 + 2)
        assert world.server.watched_from == ["10", "10", "10"]
        await world.clock.advance(1)
        assert world.server.watched_from == ["10", "10", "10", "11"]


@pytest.mark.parametrize("said", [[], [event("ADDED", "a", 11)]], ids=["nothing", "an event"])
async def test_watch_that_ends_at_once_is_followed_by_a_pause(said: list[Object]) -> None:
    world = World()
    world.server.lists = [[page(10)]]
    world.server.watches = [[*said, None]]
    async with world.running():
        assert len(world.server.watched_from) == 1
        await world.clock.advance(1)
        assert len(world.server.watched_from) == 2


async def test_watch_that_ends_in_its_time_goes_on_at_once() -> None:
    world = World()
    world.server.lists = [[page(10)]]
    world.server.watches = [[event("BOOKMARK", "", version), 300.0, None] for version in (11, 12)]
    async with world.running():
        await world.clock.advance(600)
        assert world.server.watched_from == ["10", "11", "12"]


async def test_quiet_collection_costs_a_look_and_a_new_watch_but_no_pause() -> None:
    world = World()
    world.server.lists = [[page(10)]]
    world.server.watches = [[90.0, None]] * 3
    world.server.first_items = [page(10), page(11), page(12)]
    async with world.running():
        await world.clock.advance(270)
        assert world.server.watched_from == ["10"] * 4
        assert world.server.first_items == []


async def test_server_that_is_behind_us_is_listed_anew() -> None:
    world = World()
    world.server.lists = [[page(100, thing("a", 90))], [page(60, thing("b", 50))]]
    world.server.watches = [[90.0, None]]
    world.server.first_items = [page(60, thing("b", 50))]
    async with world.running():
        await world.clock.advance(91)
        assert world.server.watched_from == ["100", "60"]
        assert world.cache == {"b": 50}


@pytest.mark.parametrize(
    "interruption",
    [[UnavailableError("connection reset")], [None]],
    ids=["error", "end at once"],
)
async def test_server_that_is_behind_us_after_an_interruption_is_listed_anew(
    interruption: list[Object | KmmError | float | None],
) -> None:
    """An API server is started anew over a restored etcd; a watch from where we were is mute."""
    world = World()
    world.server.lists = [[page(100, thing("a", 90))], [page(60, thing("a", 50))]]
    world.server.watches = [interruption]
    world.server.first_items = [page(60, thing("a", 50))]
    async with world.running():
        await world.clock.advance(1 + 2)
        assert world.server.watched_from == ["100", "60"]
    assert world.told("a") == [(None, 90), (90, 50)]


_ADDED = event("ADDED", "a", 12)
_DELETED = event("DELETED", "a", 12)
_ANOTHER = {"metadata": {"name": "a", "resourceVersion": "12", "uid": "another"}}


@pytest.mark.parametrize(
    ("event", "shown", "listed"),
    [
        (_ADDED, [thing("a", 12)], False),
        (_ADDED, [thing("a", 7)], True),
        (_ADDED, [thing("a", 1007)], True),
        (_ADDED, [_ANOTHER], True),
        (_ADDED, [], True),
        (_DELETED, [], False),
        (_DELETED, [thing("a", 7)], True),
    ],
    ids=[
        "same",
        "undone",
        "changed",
        "another of its version",
        "creation undone",
        "still gone",
        "deletion undone",
    ],
)
async def test_server_that_has_caught_up_with_us_is_listed_anew_if_our_newest_change_is_not_there(
    event: Object, shown: list[Object], listed: bool
) -> None:
    """A restored etcd is, by its versions, soon where we were."""
    world = World()
    world.server.lists = [[page(10, thing("a", 7), thing("b", 8))], [page(1010, *shown)]]
    world.server.watches = [[event, UnavailableError("connection reset")]]
    world.server.first_items = [page(1000, *shown)]
    async with world.running():
        await world.clock.advance(1 + 2)
        assert world.server.watched_from == ["10", "1010" if listed else "12"]


async def test_object_of_a_restored_server_counts_though_its_version_is_what_it_was() -> None:
    """Its history counts through the same numbers again; what did not change is told nobody."""
    world = World()
    same, before, now = thing("same", 80), thing("a", 90), {**thing("a", 90), "restored": True}
    world.server.lists = [[page(100, same, before)], [page(95, same, now)]]
    world.server.watches = [[UnavailableError("connection reset")]]
    world.server.first_items = [page(95, now)]
    world.informer._decode = lambda content: int("restored" in content)
    async with world.running():
        await world.clock.advance(1 + 2)
        assert world.server.watched_from == ["100", "95"]
    assert world.told("a") == [(None, 0), (0, 1)]
    assert world.told("same") == [(None, 0)]


async def test_write_below_what_was_known_counts_while_a_restored_server_is_listed() -> None:
    world = World()
    world.server.lists = [
        [page(100, thing("a", 90))],
        [page(60, thing("b", 40)), page(60, thing("a", 50))],
    ]
    world.server.watches = [
        [UnavailableError("connection reset")],
        [event("MODIFIED", "a", 62), event("MODIFIED", "a", 63)],
    ]
    world.server.first_items = [page(60, thing("a", 50))]
    async with world.running():
        await world.clock.advance(1 + 2)
        world.informer.observe(thing("a", 62))
        assert world.cache["a"] == 62
        world.server.turn.set()
        await rest()
        assert world.cache["a"] == 63


@pytest.mark.parametrize("interrupted", [False, True], ids=["watching", "in a pause"])
async def test_all_list_anew_when_one_finds_the_server_put_back(interrupted: bool) -> None:
    """What the others knew last was not undone; a watch from where they were misses what comes."""
    history = History()
    one, other = World(history=history), World(history=history)
    one.server.lists = [[page(100, thing("a", 90))], [page(95, thing("a", 50))]]
    other.server.lists = [[page(100, thing("b", 10))], [page(95, thing("b", 70))]]
    one.server.watches = [[UnavailableError("connection reset")]]
    one.server.first_items = [page(95, thing("a", 50))]
    other.server.watches = [[UnavailableError("connection reset")]] if interrupted else []
    async with one.running(), other.running():
        await one.clock.advance(1)
        assert other.informer.settled.is_set() is not interrupted
        await other.clock.advance(1)
        await one.clock.advance(2)
        assert other.informer.settled.is_set()
        assert (one.cache, other.cache) == ({"a": 50}, {"b": 70})
    assert other.server.watched_from == ["100", "95"]


async def test_list_that_was_asked_for_is_repeated_until_it_succeeds() -> None:
    """Who begins a term waits for it, and the server is often not quite back."""
    world = World()
    world.server.lists = [
        [page(10, thing("a", 5))],
        [UnavailableError("still away")],
        [page(12, thing("a", 11))],
    ]
    world.server.watches = [[20.0, UnavailableError("connection reset")]]
    async with world.running():
        await world.clock.advance(20)
        asked = asyncio.create_task(world.informer.refresh(older_than=10))
        await world.clock.advance(1 + 2)
        assert asked.done()
        assert world.server.watched_from == ["10", "12"]
        assert world.cache == {"a": 11}


async def test_write_while_all_is_listed_anew_from_a_pause_is_not_undone() -> None:
    world = World()
    world.server.lists = [[page(10, thing("a", 5))], [page(11), page(11, thing("a", 5))]]
    world.server.watches = [[UnavailableError("connection reset")]]
    async with world.running():
        world.history.broke()
        await world.clock.advance(1)
        world.informer.observe(thing("a", 12))
        world.informer.observe(thing("b", 13))
        world.server.turn.set()
        await rest()
        assert world.cache == {"a": 12, "b": 13}
    assert world.told("a") == [(None, 5), (5, 12)]
    assert world.told("b") == [(None, 13)]


async def test_cache_is_not_settled_if_it_was_distrusted_while_it_looked() -> None:
    world = World()
    world.server.lists = [[page(10, thing("a", 5))], [page(7), page(7, thing("a", 6))]]
    world.server.watches = [[UnavailableError("connection reset")]]
    world.server.looking.clear()
    async with world.running():
        await world.clock.advance(1)
        world.history.broke()
        world.server.looking.set()
        await rest()
        assert not world.informer.settled.is_set()
        world.server.turn.set()
        await rest()
        assert world.informer.settled.is_set()
        assert world.cache == {"a": 6}


@pytest.mark.parametrize(
    ("shown", "put_back"),
    [([thing("a", 7)], True), ([thing("a", 1007)], False), ([], False)],
    ids=["older", "newer", "gone"],
)
async def test_others_are_told_only_of_what_no_later_change_can_have_done(
    shown: list[Object], put_back: bool
) -> None:
    world = World()
    world.server.lists = [[page(10, thing("a", 7))], [page(1010, *shown)]]
    world.server.watches = [[_ADDED, UnavailableError("connection reset")]]
    world.server.first_items = [page(1000, *shown)]
    told: list[bool] = []
    world.history.follow(lambda: told.append(True))
    async with world.running():
        await world.clock.advance(1 + 2)
        assert world.server.watched_from == ["10", "1010"]
    assert bool(told) is put_back


async def test_cache_is_not_settled_from_an_interruption_until_the_server_has_told_what_is_so() -> (
    None
):
    world = World()
    world.server.lists = [[page(100, thing("a", 90))], [page(60, thing("a", 50))]]
    world.server.watches = [[30.0, UnavailableError("connection reset")]]
    world.server.first_items = [page(60, thing("a", 50))]
    assert not world.informer.settled.is_set()
    async with world.running():
        assert world.informer.settled.is_set()
        await world.clock.advance(30)
        assert not world.informer.settled.is_set()
        assert world.cache == {"a": 90}
        await world.clock.advance(1 + 2)
        assert world.informer.settled.is_set()
        assert world.cache == {"a": 50}


async def test_look_that_fails_costs_a_pause() -> None:
    world = World()
    world.server.lists = [[page(10)]]
    world.server.watches = [[90.0, None]]
    world.server.first_items = [UnavailableError("away")]
    async with world.running():
        await world.clock.advance(90)
        assert world.server.watched_from == ["10"]
        await world.clock.advance(1)
        assert world.server.watched_from == ["10", "10"]


@pytest.mark.parametrize(
    "lost",
    [
        GoneError("too old"),
        {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}},
    ],
    ids=["answer", "event"],
)
async def test_lost_history_is_made_up_by_one_list_that_tells_deletions(
    lost: KmmError | Object,
) -> None:
    world = World()
    world.server.lists = [[page(10, thing("a", 3), thing("b", 4))], [page(20, thing("b", 15))]]
    world.server.watches = [[lost]]
    async with world.running():
        await world.clock.advance(1)
        assert world.cache == {"b": 15}
        assert world.server.watched_from == ["10", "20"]
    assert world.told("a") == [(None, 3), (3, None)]
    assert world.told("b") == [(None, 4), (4, 15)]


@pytest.mark.parametrize(
    ("status", "pause"),
    [
        ({"code": 500, "message": "etcd is away"}, 1),
        ({"code": 429, "details": {"retryAfterSeconds": 7}}, 7),
        ({}, 1),
    ],
    ids=["unavailable", "busy", "unknown"],
)
async def test_other_error_in_a_watch_costs_a_pause_and_a_look_but_no_list(
    status: Object, pause: float
) -> None:
    world = World()
    world.server.lists = [[page(10)]]
    world.server.watches = [[{"type": "ERROR", "object": {"kind": "Status", **status}}]]
    async with world.running():
        await world.clock.advance(pause - 0.1)
        assert world.server.watched_from == ["10"]
        await world.clock.advance(0.1)
        assert world.server.watched_from == ["10", "10"]
        assert world.server.looks == 1


async def test_list_is_the_truth_even_if_its_versions_are_lower() -> None:
    world = World()
    world.server.lists = [[page(100, thing("a", 90))], [page(50, thing("a", 40))]]
    world.server.watches = [[GoneError("restored")]]
    async with world.running():
        await world.clock.advance(1)
        assert world.cache == {"a": 40}


# Answers to our own writes.


async def test_what_we_wrote_during_a_list_is_not_undone_by_it() -> None:
    world = World()
    world.server.lists = [[page(10, thing("a", 3)), page(10, thing("b", 4))]]
    async with world.running():
        for written in (thing("b", 11), thing("new", 12)):
            world.informer.observe(written)
        world.server.turn.set()
        await rest()
        assert world.cache == {"a": 3, "b": 11, "new": 12}
    assert world.told("new") == [(None, 12)]
    assert world.told("b") == [(None, 11)]


async def test_answer_older_than_the_list_does_not_bring_an_object_back() -> None:
    world = World()
    world.server.lists = [[page(10), page(10)]]
    async with world.running():
        world.informer.observe(thing("gone", 9))
        world.server.turn.set()
        await rest()
        assert world.cache == {}
        world.informer.observe(thing("gone", 9))
        assert world.cache == {}


async def test_late_end_of_an_object_does_not_end_its_successor() -> None:
    world = World()
    world.server.lists = [[page(10, thing("a", 3))]]
    async with world.running():
        world.informer.observe(thing("a", 14))
        world.informer._take(event("DELETED", "a", 12))
        assert world.cache == {"a": 14}
        world.informer._take(event("DELETED", "a", 15))
        assert world.cache == {}
    assert world.told("a") == [(None, 3), (3, 14), (14, None)]


# What cannot be read.


async def test_unreadable_version_is_told_once_and_keeps_what_was_known() -> None:
    world = World()
    told: list[tuple[Object, str]] = []
    world.informer.add_unreadable_handler(lambda content, error: told.append((content, str(error))))
    bad = thing("a", 11, bad=True)
    world.server.lists = [[page(10, thing("a", 3))], [page(20, bad)]]
    world.server.watches = [[{"type": "MODIFIED", "object": bad}, GoneError("too old")]]
    async with world.running():
        await world.clock.advance(1)
        assert world.cache == {"a": 3}
        assert world.informer.store.unreadable == {"a"}
        assert told == [(bad, "field bad: remove it")]
        world.informer._take(event("MODIFIED", "a", 21))
        assert world.informer.store.unreadable == set()
    assert world.told("a") == [(None, 3), (None, 21)]


async def test_unreadable_object_is_in_no_view_but_its_end_is_told() -> None:
    world = World()
    world.server.lists = [[page(10, thing("a", 3, bad=True), thing("b", 4))]]
    async with world.running():
        assert (list(world.informer.store), len(world.informer.store)) == (["b"], 1)
        assert world.informer.store["b"] == 4
        with pytest.raises(KeyError):
            world.informer.store["a"]
        world.informer._take(event("DELETED", "a", 11))
        world.informer._take(event("DELETED", "a", 11))
    assert world.told("a") == [(None, None)]


# Handlers.


async def test_broken_handler_keeps_nothing_from_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    world.informer.add_handler(broken)
    last: list[str] = []
    world.informer.add_handler(lambda change: last.append(change.key))
    world.informer.add_unreadable_handler(broken)
    world.server.lists = [[page(10, thing("a", 3), thing("b", 4, bad=True), thing("c", 5))]]
    async with world.running():
        assert world.informer.synced.is_set()
    assert last == ["a", "c"]
    crashes = [each for each in caplog.records if each.getMessage() == "handler crashed"]
    assert len(crashes) == 3


async def test_handler_that_comes_late_can_be_told_all_there_is_and_one_that_leaves_nothing() -> (
    None
):
    world = World()
    late: list[Change[int]] = []
    bad = thing("b", 4, bad=True)
    unread: list[Object] = []

    def tell(content: Object, _: Exception) -> None:
        unread.append(content)

    world.server.lists = [[page(10, thing("a", 3), bad)]]
    async with world.running():
        world.informer.replay(late.append)
        assert late == [Change(key="a", old=None, new=3, fresh=False)]
        world.informer.add_unreadable_handler(tell)
        assert unread == [bad]
        world.informer.add_handler(late.append)
        world.informer.remove_handler(late.append)
        world.informer.remove_unreadable_handler(tell)
        world.informer._take(event("MODIFIED", "b", 11))
        world.informer._take({"type": "MODIFIED", "object": thing("a", 12, bad=True)})
        assert (len(late), len(unread)) == (1, 1)
        world.informer.add_unreadable_handler(tell)
        assert [each["metadata"]["name"] for each in unread] == ["b", "a"]


async def test_cache_is_listed_anew_for_who_asks_though_its_watch_is_there() -> None:
    world = World()
    world.server.lists = [[page(10, thing("a", 3))], [page(20, thing("a", 15))]]
    async with world.running():
        await world.clock.advance(5)
        await world.informer.refresh(older_than=10.0)
        assert world.cache == {"a": 3}
        await world.clock.advance(6)
        asking = asyncio.create_task(world.informer.refresh(older_than=10.0))
        await rest()
        assert asking.done()
        assert world.cache == {"a": 15}
        assert world.server.watched_from == ["10", "20"]
        assert world.server.open == 1


async def test_refresh_waits_for_a_server_that_is_away() -> None:
    world = World()
    away = UnavailableError("away")
    world.server.lists = [[page(10, thing("a", 3))], [away], [page(20, thing("a", 15))]]
    async with world.running():
        await world.clock.advance(60)
        asking = asyncio.create_task(world.informer.refresh(older_than=10.0))
        await rest()
        assert not asking.done()
        await world.clock.advance(30)
        assert asking.done()
        assert world.cache == {"a": 15}
