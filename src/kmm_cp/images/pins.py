"""Which digest each Module's image stands for: asked once, kept, and told when it changes."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from kmm_common.api.names import Reason
from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.desired import DesiredModule, RegistryTLS
from kmm_common.errors import KmmError
from kmm_common.logs import log, log_crash
from kmm_common.oci.credentials import RegistryCredential, credentials_of_secret
from kmm_common.oci.errors import UnauthorizedError
from kmm_common.oci.flights import Flights
from kmm_cp.policy.digests import (
    ImageKey,
    Pending,
    Pinned,
    Resolution,
    Unresolved,
    image_key,
)

_logger = logging.getLogger(__name__)

ROWS = 10_000
PARALLEL = 8
_SECRET_SECONDS = 10.0


class Resolver(Protocol):
    """Who asks registries."""

    async def resolve(
        self, image: str, *, tls: RegistryTLS, credentials: Sequence[RegistryCredential] = ...
    ) -> str:
        """Return the digest an image stands for. Raises KmmError."""
        ...


class Secrets(Protocol):
    """Who reads Secrets."""

    async def read(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """Return a Secret's decoded data, None if there is none. Raises KmmError."""
        ...


@dataclass(slots=True, eq=False)
class _Row:
    entry: DesiredModule | None
    """None for a digest that was adopted."""
    resolution: Resolution
    asked: bool = True
    """Since the last look-up; a row that nobody asks for is not looked up again."""
    again: int = 0
    """How often look_again() has asked in vain."""
    again_at: float = 0.0
    """When it may ask next, in monotonic seconds."""


class Pins:
    """The policy's `Digests`: answers at once, looks up in run()."""

    def __init__(
        self,
        *,
        resolver: Resolver,
        secrets: Secrets,
        clock: Clock,
        on_change: Callable[[ImageKey], None],
        backoff: Backoff | None = None,
        rows: int = ROWS,
    ) -> None:
        """`on_change` is called after each look-up: who plans with the image plans again.

        A look-up that failed is repeated for as long as somebody does.
        """
        self._resolver = resolver
        self._secrets = secrets
        self._clock = clock
        self._on_change = on_change
        self._backoff = backoff or Backoff(base=10.0, cap=300.0)
        self._limit = rows
        self._rows: dict[ImageKey, _Row] = {}
        self._fresh: asyncio.Queue[tuple[ImageKey, _Row]] = asyncio.Queue()
        self._flights: Flights[object, str] = Flights("resolve")
        self._gate = asyncio.Semaphore(PARALLEL)

    def __call__(self, entry: DesiredModule) -> Resolution:
        """Return what is known of an entry's image; Pending until the registry has answered.

        Another way to the image that was not found out, by secret or TLS, is tried at once, and so
        is the same one if somebody asks for a retry.
        """
        key = image_key(entry)
        row = self._rows.pop(key, None)
        if row is None or _leads_elsewhere(row, entry):
            row = _Row(entry=entry, resolution=Pending())
            self._fresh.put_nowait((key, row))
        row.asked = True
        self._keep(key, row)
        return row.resolution

    def adopt(self, known: Mapping[ImageKey, str]) -> None:
        """Pin what images already stand for on nodes, where no registry has answered."""
        for key, digest in known.items():
            row = self._rows.get(key)
            if row is None:
                self._keep(key, _Row(entry=None, resolution=Pinned(digest)))
            elif not isinstance(row.resolution, Pinned):
                row.resolution = Pinned(digest)
                self._on_change(key)

    async def look_again(self, entry: DesiredModule) -> None:
        """Ask anew what a pinned image stands for; it is for images that no node could load.

        Asked in vain it waits as after a failed look-up. Where the registry does not tell, the
        digest stays.
        """
        key, now = image_key(entry), self._clock.monotonic()
        row = self._rows.get(key)
        if row is None or not isinstance(row.resolution, Pinned) or now < row.again_at:
            return
        row.again += 1
        row.again_at = now + self._backoff.delay(row.again)
        found = await self._look_up(entry)
        if isinstance(found, Pinned) and found != row.resolution and self._rows.get(key) is row:
            _log_found(entry, found)
            row.resolution, row.again = found, 0
            self._on_change(key)

    async def run(self) -> None:
        """Carry out look-ups until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                key, row = await self._fresh.get()
                group.create_task(self._settle(key, row), name=f"resolve {key.image}")

    def _keep(self, key: ImageKey, row: _Row) -> None:
        """Store a row as the one asked for last; the one not asked for the longest may go."""
        self._rows[key] = row
        if len(self._rows) > self._limit:
            del self._rows[next(iter(self._rows))]

    async def _settle(self, key: ImageKey, row: _Row) -> None:
        """Look up until there is a digest, nobody asks, or another row has taken the place."""
        attempt = 0
        while (entry := self._wanted(key, row)) is not None:
            attempt += 1
            row.asked = False
            await self._settle_once(key, row, entry)
            if isinstance(row.resolution, Unresolved) and self._rows.get(key) is row:
                await self._clock.sleep(self._backoff.delay(attempt))
        if self._rows.get(key) is row and not isinstance(row.resolution, Pinned):
            del self._rows[key]

    async def _settle_once(self, key: ImageKey, row: _Row, entry: DesiredModule) -> None:
        found = await self._look_up(entry)
        if self._rows.get(key) is not row or isinstance(row.resolution, Pinned):
            return
        if row.resolution != found:
            _log_found(entry, found)
        row.resolution = found
        self._on_change(key)

    def _wanted(self, key: ImageKey, row: _Row) -> DesiredModule | None:
        current = self._rows.get(key) is row and row.asked
        return row.entry if current and not isinstance(row.resolution, Pinned) else None

    async def _look_up(self, entry: DesiredModule) -> Resolution:
        secret = (entry.namespace, entry.pull_secret) if entry.pull_secret else None
        key = (entry.image, entry.registry_tls, secret)
        try:
            return Pinned(await self._flights.join(key, partial(self._ask, entry)))
        except KmmError as error:
            message = f"image {entry.image}: {error}"
            return Unresolved(reason=_reason(error), message=message)
        except Exception as error:
            # Whatever a registry may say: other look-ups go on, and this one is tried again.
            log_crash(_logger, "look-up broke", image=entry.image)
            message = f"image {entry.image}: unexpected {type(error).__name__}; see kmm-cp's log"
            return Unresolved(reason=Reason.IMAGE_PULL_FAILED, message=message)

    async def _ask(self, entry: DesiredModule) -> str:
        async with self._gate:
            credentials = await self._credentials(entry)
            return await self._resolver.resolve(
                entry.image, tls=entry.registry_tls, credentials=credentials
            )

    async def _credentials(self, entry: DesiredModule) -> Sequence[RegistryCredential]:
        if not entry.pull_secret:
            return ()
        name = f"{entry.namespace}/{entry.pull_secret}"
        try:
            async with asyncio.timeout(_SECRET_SECONDS):
                data = await self._secrets.read(entry.namespace, entry.pull_secret)
        except TimeoutError as error:
            raise UnauthorizedError(f"Secret {name} cannot be read in time") from error
        if data is None:
            raise UnauthorizedError(
                f"there is no Secret {name}; make it or correct imageRepoSecret"
            )
        return credentials_of_secret(name, data)


def _leads_elsewhere(row: _Row, entry: DesiredModule) -> bool:
    """Tell whether an entry asks for the image that a row has not found in another way, or anew."""
    if row.entry is None or isinstance(row.resolution, Pinned):
        return False
    return _way(row.entry) != _way(entry)


def _way(entry: DesiredModule) -> tuple[str, RegistryTLS, str]:
    return entry.pull_secret, entry.registry_tls, entry.retry


def _reason(error: KmmError) -> str:
    known = error.reason in Reason.__members__.values()
    return error.reason if known else Reason.IMAGE_PULL_FAILED


def _log_found(entry: DesiredModule, found: Resolution) -> None:
    tell = partial(log, _logger, ref=str(entry.ref), image=entry.image)
    match found:
        case Pinned(digest=digest):
            tell(logging.INFO, "image resolved", kernel=entry.kernel_version, digest=digest)
        case Unresolved(reason=reason, message=message):
            tell(logging.WARNING, "image not resolved", reason=reason, error=message)
