"""A cache of one collection, kept true by list and watch."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.errors import KmmError, TransientError
from kmm_common.logs import log, log_crash
from kmm_cp.kube.client import PAGE, KubeClient, Object
from kmm_cp.kube.errors import GoneError, UnavailableError, from_answer
from kmm_cp.kube.history import History
from kmm_cp.kube.resources import Resource
from kmm_cp.kube.store import NO_VERSION, Store

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How an informer reads and waits; times in seconds."""

    page: int = PAGE
    """Objects asked for at once."""
    inactivity: float = 90.0
    """A watch that is silent for so long begins anew: its connection may be dead, or nothing
    happens, for the server sends no bookmark where etcd has not told it of any progress."""
    short: float = 1.0
    """A watch that ends sooner was no watch: the next one waits as after a failure."""
    backoff: Backoff = field(default_factory=lambda: Backoff(0.5, 10.0, jitter=0.5))
    """Its cap is how much longer than the server a cache may be away: few clients watch so much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[T]):
    """One object that came, changed or went."""

    key: str
    old: T | None
    """None also for an object that could not be decoded before."""
    new: T | None
    fresh: bool
    """False for what a list brought: it may be long known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Newest:
    """The newest change that list or watch brought; no key if there is none."""

    key: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Empty if it was the object's end. The version alone would not do: a server that was put back
    counts through the same numbers again, and comes to this object as often as before."""

    @classmethod
    def of(cls, content: Object) -> "_Newest":
        return cls(key=_key(content), metadata=content["metadata"])

    def or_later(self, other: "_Newest") -> "_Newest":
        return other if other._version > self._version else self

    @property
    def _version(self) -> int:
        return _number(self.metadata)


Handler = Callable[[Change[T]], None]
UnreadableHandler = Callable[[Object, Exception], None]


class Informer(Generic[T]):
    """Lists, then watches; lists again when the server has forgotten where we were."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        decode: Callable[[Object], T],
        *,
        clock: Clock,
        namespace: str = "",
        label_selector: str = "",
        pace: Pace | None = None,
        history: History | None = None,
    ) -> None:
        self.store: Store[T] = Store()
        self.synced = asyncio.Event()
        self.settled = asyncio.Event()
        """Not set from an interruption until it is known that what the cache has is still so: the
        server may have been put back to a backup meanwhile."""
        self.name = resource.plural
        self._client = client
        self._resource = resource
        self._decode = decode
        self._clock = clock
        self._where = {"namespace": namespace, "label_selector": label_selector}
        self._pace = pace or Pace()
        self._handlers: list[Handler[T]] = []
        self._unreadable_handlers: list[UnreadableHandler] = []
        self._unreadable: dict[str, tuple[Object, Exception]] = {}
        self._position = ""
        """resourceVersion up to which all is known; empty until a list is complete."""
        self._newest = _Newest()
        self._failures = 0
        self._refresh = asyncio.Event()
        self._listed = asyncio.Event()
        self._listed_at = 0.0
        self._answers: dict[str, int] = {}
        """Versions by key that observe() brought while there was no position."""
        self._history = history or History()
        self._history.follow(self._distrust)

    def add_handler(self, handler: Handler[T]) -> None:
        """Call the handler, synchronously, for every change from now on."""
        self._handlers.append(handler)

    def remove_handler(self, handler: Handler[T]) -> None:
        """Call it no more."""
        self._handlers.remove(handler)

    def replay(self, handler: Handler[T]) -> None:
        """Call a handler for all there is now, as if a list had just brought it."""
        for key, value in list(self.store.items()):
            self._tell(key, [handler], Change(key=key, old=None, new=value, fresh=False))

    def add_unreadable_handler(self, handler: UnreadableHandler) -> None:
        """Call the handler, synchronously, for every version that cannot be decoded, and why.

        Of what is so already it is told first.
        """
        for key, told in list(self._unreadable.items()):
            self._tell(key, [handler], *told)
        self._unreadable_handlers.append(handler)

    def remove_unreadable_handler(self, handler: UnreadableHandler) -> None:
        """Call it no more."""
        self._unreadable_handlers.remove(handler)

    async def run(self) -> None:
        """Keep the cache true, until cancelled."""
        interrupted = False
        while True:
            try:
                if self._refresh.is_set():
                    self._refresh.clear()
                    self._position = ""
                if not self._position:
                    began = self._clock.monotonic()
                    self._position = await self._list()
                    self._listed_at = began
                    self.synced.set()
                    self._listed.set()
                elif interrupted:
                    await self._verify_history()
                interrupted = False
                if self._refresh.is_set():
                    continue
                self.settled.set()
                await self._watch_until_refresh()
            except GoneError as error:
                self.settled.clear()
                self._position = ""
                await self._pause(error)
            except KmmError as error:
                self.settled.clear()
                interrupted = True
                await self._pause(error)

    async def refresh(self, *, older_than: float) -> None:
        """Wait until all is listed anew, unless the last list began less than so long ago (s).

        A watch whose connection is dead shows what was, for as long as its inactivity is borne.
        """
        if self.synced.is_set() and self._clock.monotonic() - self._listed_at <= older_than:
            return
        self._listed.clear()
        self._refresh.set()
        await self._listed.wait()

    def observe(self, written: Object) -> None:
        """Take in what a write of ours returned, before the watch brings it."""
        version = int(written["metadata"]["resourceVersion"])
        # Where the watch is ahead of the answer it may have brought the object's end already.
        if version <= int(self._position or 0):
            return
        if not self._position:
            self._answers[_key(written)] = version
        self._put(written, fresh=True)

    async def _list(self) -> str:
        """Replace the cache's content; return the version to watch from.

        Where etcd was restored versions begin again from a lower one: an object may have one that
        it had before, or be written anew below it.
        """
        self._answers.clear()
        self.store.forget_versions()
        seen: set[str] = set()
        newest = _Newest()
        version = ""
        pages = self._client.pages(self._resource, limit=self._pace.page, **self._where)
        async for page in pages:
            version = page["metadata"]["resourceVersion"]
            for item in page["items"]:
                seen.add(_key(item))
                newest = newest.or_later(_Newest.of(item))
                self._put_listed(item, version)
        for key in set(self.store.versions) - seen:
            if not self._overtaken(key, version):
                self._remove(key, fresh=False)
        self._newest = newest
        return version

    def _put_listed(self, item: Object, list_version: str) -> None:
        if not self._overtaken(_key(item), list_version):
            self._put(item, fresh=False)

    def _overtaken(self, key: str, list_version: str) -> bool:
        """Tell whether we wrote an object after the moment that a list shows."""
        return self._answers.get(key, 0) > int(list_version)

    async def _watch_until_refresh(self) -> None:
        """Follow one watch until it ends, or somebody wants a list."""
        watching = asyncio.create_task(self._watch(), name=f"watch {self.name}")
        asked = asyncio.create_task(self._refresh.wait(), name=f"refresh {self.name}")
        try:
            await asyncio.wait({watching, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not watching.done():
                self._position = ""
                return
        finally:
            asked.cancel()
            watching.cancel()
            await asyncio.wait({watching, asked})
        await watching

    async def _watch(self) -> None:
        """Follow one watch to its end."""
        began = self._clock.monotonic()
        events = self._client.watch(
            self._resource,
            resource_version=self._position,
            inactivity=self._pace.inactivity,
            **self._where,
        )
        silent = True
        async with contextlib.aclosing(events):
            async for event in events:
                self._take(event)
                self._failures, silent = 0, False
        if self._clock.monotonic() - began < self._pace.short:
            raise UnavailableError(f"watch {self.name}: ended at once", reason="Unavailable")
        self._failures = 0
        if silent:
            await self._verify_history()

    async def _verify_history(self) -> None:
        """Raise GoneError unless the server's history goes on from where we are.

        When etcd was restored from a backup it does not. A watch from our position is mute until
        its versions have caught up, and brings nothing of what was undone when they have. So the
        newest change that we know of must still be what its object shows. It no longer is, too,
        where that very object has changed or gone since: a list more, and nothing is lost.
        """
        namespace, _, name = self._newest.key.rpartition("/")
        where = {**self._where, "name": name}
        if namespace:
            where["namespace"] = namespace
        pages = self._client.pages(self._resource, limit=1, **where)
        async with contextlib.aclosing(pages):
            page = await anext(pages)
        server, shown = page["metadata"]["resourceVersion"], _metadata(page["items"])
        behind = int(server) < int(self._position)
        if not behind and (not name or self._newest.metadata == shown):
            return
        if behind or 0 < _number(shown) <= int(self._position):
            # No later change: that one was undone.
            self._history.broke()
        text = f"watch {self.name}: {self._newest.key or 'nothing'} is not as it was last seen"
        raise GoneError(f"{text}, the server is at {server}", reason="Expired")

    def _distrust(self) -> None:
        """List all anew: an informer has found that the server was put back."""
        self.settled.clear()
        self._refresh.set()

    def _take(self, event: Object) -> None:
        content = event["object"]
        match event["type"]:
            case "ERROR":
                raise _watch_error(self.name, content)
            case "BOOKMARK":
                pass
            case "DELETED":
                self._delete(content)
                self._newest = _Newest(key=_key(content))
            case _:
                self._put(content, fresh=True)
                self._newest = _Newest.of(content)
        self._position = content["metadata"]["resourceVersion"]

    def _put(self, content: Object, *, fresh: bool) -> None:
        key, version = _key(content), content["metadata"]["resourceVersion"]
        known = self.store.versions.get(key)
        # A watch may bring what observe() has overtaken; for lists _overtaken() tells that.
        if known == version or (fresh and int(version) < int(known or 0)):
            return
        try:
            value = self._decode(content)
        except Exception as error:
            self._not_understood(content, error)
            return
        self._unreadable.pop(key, None)
        old = self.store.put(key, version, value)
        if known == NO_VERSION and old == value:
            return
        self._changed(Change(key=key, old=old, new=value, fresh=fresh))

    def _not_understood(self, content: Object, error: Exception) -> None:
        key = _key(content)
        self.store.mark_unreadable(key, content["metadata"]["resourceVersion"])
        if key in self._unreadable and self._unreadable[key][0] == content:
            return
        self._unreadable[key] = content, error
        resource = self.name
        log(
            logger, logging.ERROR, "object unreadable", resource=resource, key=key, error=str(error)
        )
        self._tell(key, self._unreadable_handlers, content, error)

    def _delete(self, content: Object) -> None:
        """Take in the end of an object, unless observe() has brought its successor already."""
        known = self.store.versions.get(_key(content), NO_VERSION)
        if int(content["metadata"]["resourceVersion"]) >= int(known):
            self._remove(_key(content), fresh=True)

    def _remove(self, key: str, *, fresh: bool) -> None:
        self._unreadable.pop(key, None)
        if key in self.store.versions:
            self._changed(Change(key=key, old=self.store.drop(key), new=None, fresh=fresh))

    def _changed(self, change: Change[T]) -> None:
        self._tell(change.key, self._handlers, change)

    def _tell(self, key: str, handlers: Iterable[Callable[..., None]], *news: Any) -> None:
        for handler in handlers:
            # The cache has it already: no other handler may miss it because one is broken.
            try:
                handler(*news)
            except Exception:
                log_crash(logger, "handler crashed", resource=self.name, key=key)

    async def _pause(self, error: KmmError) -> None:
        self._failures += 1
        asked = error.retry_after if isinstance(error, TransientError) else None
        delay = max(self._pace.backoff.delay(self._failures), asked or 0.0)
        if self._failures == 1:
            text = str(error)
            log(logger, logging.WARNING, "watch interrupted", resource=self.name, error=text)
        await self._clock.sleep(delay)


def _key(content: Mapping[str, Any]) -> str:
    metadata = content["metadata"]
    namespace = metadata.get("namespace", "")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


def _number(metadata: Mapping[str, Any]) -> int:
    """Return the version; 0 if there is no object."""
    return int(metadata.get("resourceVersion", 0))


def _metadata(items: list[Object]) -> Mapping[str, Any]:
    """Return that of the only object; empty if there is none."""
    return items[0]["metadata"] if items else {}


def _watch_error(name: str, status: Mapping[str, Any]) -> KmmError:
    """Return what a server says instead of an event."""
    wait = (status.get("details") or {}).get("retryAfterSeconds")
    return from_answer(f"watch {name}", status.get("code") or 500, status, wait)
