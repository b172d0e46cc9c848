"""A cache of one collection, kept true by list and watch."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.errors import KmmError
from kmm_common.logs import log
from kmm_cp.kube.client import KubeClient, Object
from kmm_cp.kube.errors import GoneError, UnavailableError
from kmm_cp.kube.resources import Resource

logger = logging.getLogger(__name__)

T = TypeVar("T")

INACTIVITY_SECONDS = 90.0
"""The API server sends a bookmark about once a minute; longer silence is a dead connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[T]):
    """One object that came, changed or went."""

    key: str
    old: T | None
    new: T | None
    fresh: bool
    """False for what a list brought: it may be long known."""


Handler = Callable[[Change[T]], None]


@dataclass(frozen=True, slots=True)
class _Cached(Generic[T]):
    version: str
    value: T


class Store(Mapping[str, T]):
    """What the informer knows, by "name" or "namespace/name"."""

    def __init__(self) -> None:
        self._cached: dict[str, _Cached[T]] = {}

    def __getitem__(self, key: str) -> T:
        return self._cached[key].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._cached)

    def __len__(self) -> int:
        return len(self._cached)


@dataclass(slots=True)
class _Progress:
    resource_version: str = ""
    attempts: int = 0


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
        backoff: Backoff | None = None,
        inactivity: float = INACTIVITY_SECONDS,
    ) -> None:
        self.store: Store[T] = Store()
        self.synced = asyncio.Event()
        self.name = resource.plural
        self._client = client
        self._resource = resource
        self._decode = decode
        self._clock = clock
        self._where = {"namespace": namespace, "label_selector": label_selector}
        self._backoff = backoff or Backoff(0.5, 30.0, jitter=0.5)
        self._inactivity = inactivity
        self._handlers: list[Handler[T]] = []
        self._position = _Progress()

    def add_handler(self, handler: Handler[T]) -> None:
        """Call the handler, synchronously, for every change from now on."""
        self._handlers.append(handler)

    async def run(self) -> None:
        """Keep the cache true, until cancelled."""
        position = self._position
        while True:
            try:
                if not position.resource_version:
                    position.resource_version = await self._list()
                    self.synced.set()
                await self._watch(position)
            except GoneError:
                position.resource_version = ""
                await self._pause(position, "history is gone")
            except KmmError as error:
                await self._pause(position, str(error))

    def observe(self, written: Object) -> None:
        """Take in what a write of ours returned, before the watch brings it."""
        # Where the watch is ahead of the answer it may have brought the object's end already.
        passed = int(self._position.resource_version or 0)
        if int(written["metadata"]["resourceVersion"]) > passed:
            self._put(written, fresh=True)

    async def _list(self) -> str:
        """Replace the cache's content; return the version to watch from."""
        seen: set[str] = set()
        version = ""
        async for page in self._client.pages(self._resource, **self._where):
            version = page["metadata"]["resourceVersion"]
            for item in page["items"]:
                seen.add(_key(item))
                self._put(item, fresh=False)
        for key in set(self.store) - seen:
            self._remove(key, fresh=False)
        return version

    async def _watch(self, position: _Progress) -> None:
        """Follow one watch to its end."""
        events = self._client.watch(
            self._resource,
            resource_version=position.resource_version,
            inactivity=self._inactivity,
            **self._where,
        )
        silent = True
        async for event in events:
            self._take(event, position)
            position.attempts, silent = 0, False
        if silent:
            raise UnavailableError(f"watch {self.name}: ended without a word")

    def _take(self, event: Object, position: _Progress) -> None:
        content = event["object"]
        match event["type"]:
            case "ERROR":
                raise _watch_error(self.name, content)
            case "BOOKMARK":
                pass
            case "DELETED":
                self._remove(_key(content), fresh=True)
            case _:
                self._put(content, fresh=True)
        position.resource_version = content["metadata"]["resourceVersion"]

    def _put(self, content: Object, *, fresh: bool) -> None:
        key, version = _key(content), content["metadata"]["resourceVersion"]
        cached = self.store._cached.get(key)
        if cached is not None and _known(cached.version, version, fresh=fresh):
            return
        try:
            value = self._decode(content)
        except Exception as error:
            log(logger, logging.ERROR, "object not understood", key=key, error=repr(error))
            return
        self.store._cached[key] = _Cached(version, value)
        self._tell(Change(key=key, old=cached.value if cached else None, new=value, fresh=fresh))

    def _remove(self, key: str, *, fresh: bool) -> None:
        cached = self.store._cached.pop(key, None)
        if cached is not None:
            self._tell(Change(key=key, old=cached.value, new=None, fresh=fresh))

    def _tell(self, change: Change[T]) -> None:
        for handler in self._handlers:
            handler(change)

    async def _pause(self, position: _Progress, why: str) -> None:
        position.attempts += 1
        delay = self._backoff.delay(position.attempts)
        if position.attempts == 1:
            log(logger, logging.WARNING, "watch interrupted", resource=self.name, error=why)
        await self._clock.sleep(delay)


def _key(content: Mapping[str, Any]) -> str:
    metadata = content["metadata"]
    namespace = metadata.get("namespace", "")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


def _known(cached: str, version: str, *, fresh: bool) -> bool:
    """Tell whether an object is no news.

    A watch may bring what observe() has overtaken. A list is the truth even if its versions are
    lower: etcd may have been restored.
    """
    return cached == version or (fresh and int(version) < int(cached))


def _watch_error(name: str, status: Mapping[str, Any]) -> KmmError:
    text = f"watch {name}: {status.get('message', '')}"
    if status.get("code") == 410:
        return GoneError(text, reason="Expired")
    return UnavailableError(text, reason="Unavailable")
