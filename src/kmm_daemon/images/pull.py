"""An image from a registry into the store: manifests and layers, each checked. Blocking."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kmm_common.clock import Clock
from kmm_common.oci.access import Access
from kmm_common.oci.cancellation import Cancellation
from kmm_common.oci.client import Client
from kmm_common.oci.digest import digest_of, hex_of
from kmm_common.oci.errors import InvalidImageError
from kmm_common.oci.manifest import Descriptor, Index, Manifest, parse_manifest
from kmm_common.oci.platform import Platform
from kmm_common.oci.reference import ImageReference
from kmm_common.oci.registry import connect
from kmm_common.oci.selection import choose
from kmm_daemon.images.download import Partial, download
from kmm_daemon.images.limits import PullLimits
from kmm_daemon.images.room import Hold, Room
from kmm_daemon.images.store import Store


class Workspace:
    """A directory of partial downloads; it goes when the last of its users has left.

    A cancelled attempt's thread may outlive the task that started it.
    """

    def __init__(self, store: Store) -> None:
        """Make the directory; the caller is its first user."""
        self._store = store
        self._path = store.new_directory()
        self._users = 1
        self._lock = threading.Lock()
        self._partials: dict[str, Partial] = {}

    def partial(self, digest: str) -> Partial:
        """Return what earlier attempts have of a blob."""
        fresh = Partial(path=self._path / hex_of(digest))
        return self._partials.setdefault(digest, fresh)

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Keep the directory until the body ends."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        """Give up one use."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self._store.discard(self._path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """Brings one image of one registry into the store."""

    store: Store
    room: Room
    platform: Platform
    limits: PullLimits
    clock: Clock

    def resolve(self, reference: ImageReference, access: Access, cancellation: Cancellation) -> str:
        """Return the digest of what a reference stands for now; the bytes are kept."""
        with connect(reference, access, cancellation) as client:
            content = client.manifest(reference)
        # A login page of a proxy has a digest too.
        parse_manifest(content)
        self.store.keep_manifest(content)
        return digest_of(content)

    def local(self, digest: str, hold: Hold) -> tuple[Path, ...] | None:
        """Return the layers of an image that is wholly in the store; None if it is not."""
        layers = self._layers(digest, None, hold)
        if layers is None or not all(self.store.has(layer) for layer in layers):
            return None
        return tuple(self.store.blob(layer.digest) for layer in layers)

    def attempt(
        self,
        reference: ImageReference,
        access: Access,
        workspace: Workspace,
        hold: Hold,
        keep: frozenset[str],
        cancellation: Cancellation,
    ) -> tuple[Path, ...]:
        """Bring what is missing of an image, named by digest, and return its layers.

        Raises the errors of kmm_common.oci.errors, and OSError where the disk fails.
        """
        with workspace.use(), connect(reference, access, cancellation) as client:
            layers = self._layers(reference.digest, client, hold) or ()
            missing = {layer.digest: layer for layer in layers if not self.store.has(layer)}
            self._check_size(layers)
            self.room.make(sum(layer.size for layer in missing.values()), keep)
            for layer in missing.values():
                self._fetch(client, layer, workspace, cancellation)
        return tuple(self.store.blob(layer.digest) for layer in layers)

    def _fetch(
        self,
        client: Client,
        layer: Descriptor,
        workspace: Workspace,
        cancellation: Cancellation,
    ) -> None:
        partial = workspace.partial(layer.digest)
        download(
            client,
            layer,
            partial,
            limits=self.limits,
            clock=self.clock,
            cancellation=cancellation,
        )
        self.store.keep_blob(partial.path, layer.digest)

    def _layers(
        self, digest: str, client: Client | None, hold: Hold
    ) -> tuple[Descriptor, ...] | None:
        """Return the layers for this platform; without a client, only from what is here."""
        content = self._manifest(digest, client, hold)
        if content is None:
            return None
        manifest = parse_manifest(content)
        if isinstance(manifest, Index):
            content = self._manifest(choose(manifest, self.platform).digest, client, hold)
            if content is None:
                return None
            manifest = parse_manifest(content)
        if not isinstance(manifest, Manifest):
            raise InvalidImageError("index: leads to another index; push an index of images")
        hold.add(*(hex_of(layer.digest) for layer in manifest.layers))
        return manifest.layers

    def _manifest(self, digest: str, client: Client | None, hold: Hold) -> bytes | None:
        hold.add(hex_of(digest))
        content = self.store.manifest(digest)
        if content is None and client is not None:
            content = client.manifest(client.reference.pinned(digest))
            self.store.keep_manifest(content)
        return content

    def _check_size(self, layers: tuple[Descriptor, ...]) -> None:
        size = sum(layer.size for layer in layers)
        if size > self.limits.image_bytes:
            raise InvalidImageError(
                f"image has {size} bytes of layers, more than the {self.limits.image_bytes} "
                "that KMM downloads; make it smaller"
            )
