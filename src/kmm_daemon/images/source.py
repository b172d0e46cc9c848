"""The image store of a node: what the Images port promises, kept."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.desired import DesiredModule
from kmm_common.errors import KmmError, TerminalError
from kmm_common.logs import log
from kmm_common.oci.cancellation import run_in_thread
from kmm_common.oci.digest import is_digest
from kmm_common.oci.errors import DigestMismatchError, InvalidImageError, UnreachableError
from kmm_common.oci.flights import Flights
from kmm_common.oci.platform import Platform, platform_of_machine
from kmm_common.oci.reference import ImageReference, parse_reference
from kmm_daemon.images.failures import (
    DiskFullError,
    NotHereError,
    StoreError,
    is_disk_full,
    step_error,
)
from kmm_daemon.images.limits import GIB, PullLimits, UnpackLimits
from kmm_daemon.images.pull import Pull
from kmm_daemon.images.ready import known_digest, tree_key
from kmm_daemon.images.room import Hold, Room
from kmm_daemon.images.secrets import PullSecrets
from kmm_daemon.images.store import Store
from kmm_daemon.images.supply import Source, Supply
from kmm_daemon.images.trees import make_tree, tree_names
from kmm_daemon.images.wanted import wanted_of
from kmm_daemon.values import ReadyImage

_logger = logging.getLogger(__name__)

_MISMATCHES = 3
"""How often a digest may arrive as other bytes before only a new image helps."""
_MISMATCHES_KEPT = 256


class ImageStore:
    """Pulls, verifies, unpacks and keeps kmod images in a directory of the node."""

    def __init__(
        self,
        directory: Path,
        *,
        credentials: PullSecrets,
        desired: Callable[[], Iterable[DesiredModule]],
        clock: Clock,
        max_bytes: int = 10 * GIB,
        platform: Platform | None = None,
        ca_file: Path | None = None,
        pull_limits: PullLimits | None = None,
        unpack_limits: UnpackLimits | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """`desired` returns the Modules whose images must stay, those in the kernel included."""
        limits = pull_limits or PullLimits()
        self._directory = directory
        self._desired = desired
        self._clock = clock
        self._unpack_limits = unpack_limits or UnpackLimits()
        self._store = Store(directory)
        self._room = Room(self._store, max_bytes=max_bytes)
        self._pull = Pull(
            store=self._store,
            room=self._room,
            platform=platform or platform_of_machine(os.uname().machine),
            limits=limits,
            clock=clock,
        )
        self._supply = Supply(
            self._pull,
            credentials=credentials,
            limits=limits,
            clock=clock,
            backoff=backoff or Backoff(base=1.0, cap=300.0),
            ca_file=ca_file,
        )
        self._pulls: Flights[object, None] = Flights("pull")
        self._trees: Flights[object, Path] = Flights("unpack")
        self._mismatches: dict[str, int] = {}

    async def open(self) -> None:
        """Make the directory and sweep what a crash has left. Raises TerminalError."""
        try:
            await asyncio.to_thread(self._store.open)
        except OSError as error:
            raise TerminalError(
                f"image store {self._directory}: {error.strerror}; make it a writable directory"
            ) from error

    async def prepare(self, module: DesiredModule) -> ReadyImage:
        """Pull if needed, verify and unpack. Raises StepError (Image*, DigestMismatch, DiskFull).

        A pinned image that is here costs no network, whatever the pull policy.
        """
        try:
            return await self._prepare(module)
        except DigestMismatchError as error:
            raise step_error(module, error, retry=self._may_retry(module)) from error
        except KmmError as error:
            raise step_error(module, error, retry=not isinstance(error, TerminalError)) from error
        except OSError as error:
            failure = StoreError(self._directory, error)
            raise step_error(module, failure, retry=True) from error

    async def _prepare(self, module: DesiredModule) -> ReadyImage:
        wanted_of(module)
        reference = parse_reference(module.image)
        digest = await self._digest(module, reference)
        root = await asyncio.to_thread(self._store.tree, tree_key(module, digest))
        if root is None:
            source = Source(reference=reference.pinned(digest), module=module)
            key = (tree_key(module, digest), module.image_pull_policy, source.key)
            root = await self._trees.join(key, partial(self._make, source))
        self._mismatches.pop(module.image, None)
        return ReadyImage(digest=digest, root=root)

    async def _digest(self, module: DesiredModule, reference: ImageReference) -> str:
        """Return the digest to use; the registry is asked only where nothing else tells it."""
        _check_digests(module, reference)
        known = await asyncio.to_thread(known_digest, self._store, module)
        if module.image_digest or reference.digest:
            return known
        if module.image_pull_policy == "Never" and not known:
            raise NotHereError
        if known and module.image_pull_policy != "Always" and await self._is_here(module, known):
            return known
        digest = await self._supply.resolve(Source(reference=reference, module=module))
        await asyncio.to_thread(self._store.remember, module.image, digest)
        return digest

    async def _is_here(self, module: DesiredModule, digest: str) -> bool:
        if module.image_pull_policy == "Never":
            return True
        if await asyncio.to_thread(self._store.tree, tree_key(module, digest)) is not None:
            return True
        with self._room.holds.new() as hold:
            return await asyncio.to_thread(self._pull.local, digest, hold) is not None

    async def _make(self, source: Source) -> Path:
        """Make a tree; where the disk is full, evict all that is not used and try once more."""
        with self._room.holds.new() as hold:
            try:
                return await self._make_once(source, hold)
            except OSError as error:
                if not is_disk_full(error):
                    raise
            await asyncio.to_thread(self._room.clear, await self._kept())
            try:
                return await self._make_once(source, hold)
            except OSError as error:
                if not is_disk_full(error):
                    raise
                raise DiskFullError(self._directory) from error

    async def _make_once(self, source: Source, hold: Hold) -> Path:
        module, digest = source.module, source.reference.digest
        hold.add(tree_key(module, digest).name)
        layers = await asyncio.to_thread(self._pull.local, digest, hold)
        if layers is None:
            layers = await self._fetch(source, hold)
        root = await run_in_thread(
            partial(
                make_tree,
                self._store,
                module,
                digest,
                layers,
                self._unpack_limits,
                self._clock,
            ),
            name=f"unpack {source.reference}",
            # The budget ends it with a better message; this is for a disk that hangs.
            deadline=2 * self._unpack_limits.seconds,
        )
        await asyncio.to_thread(self._room.make, 0, await self._kept())
        return root

    async def _fetch(self, source: Source, hold: Hold) -> tuple[Path, ...]:
        if source.module.image_pull_policy == "Never":
            raise NotHereError
        await self._pulls.join(source.key, partial(self._bring, source))
        layers = await asyncio.to_thread(self._pull.local, source.reference.digest, hold)
        if layers is None:
            raise UnreachableError("its layers were evicted at once: the image store is too small")
        return layers

    async def _bring(self, source: Source) -> None:
        with self._room.holds.new() as hold:
            await self._supply.bring(source, hold, await self._kept())
        log(_logger, logging.INFO, "image pulled", image=str(source.reference))

    async def _kept(self) -> frozenset[str]:
        return await asyncio.to_thread(tree_names, self._store, tuple(self._desired()))

    def _may_retry(self, module: DesiredModule) -> bool:
        if len(self._mismatches) > _MISMATCHES_KEPT:
            self._mismatches.clear()
        strikes = self._mismatches.get(module.image, 0) + 1
        self._mismatches[module.image] = strikes
        return strikes < _MISMATCHES


def _check_digests(module: DesiredModule, reference: ImageReference) -> None:
    if module.image_digest and not is_digest(module.image_digest):
        raise InvalidImageError(f"imageDigest {module.image_digest[:100]!a} is not sha256:<hex>")
    if module.image_digest and reference.digest and module.image_digest != reference.digest:
        raise InvalidImageError(
            f"imageDigest {module.image_digest} is not the digest that the image names"
        )
