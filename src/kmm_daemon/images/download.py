"""One blob from a registry into a file, checked on the way. Blocking."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import requests
from urllib3.exceptions import HTTPError

from kmm_common.clock import Clock
from kmm_common.oci.cancellation import Cancellation
from kmm_common.oci.client import Client
from kmm_common.oci.digest import hex_of
from kmm_common.oci.errors import DigestMismatchError, UnreachableError
from kmm_common.oci.manifest import Descriptor
from kmm_daemon.images.limits import PullLimits

_CHUNK = 1024 * 1024


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(slots=True)
class Partial:
    """A blob that has come in part; a later attempt goes on from there."""

    path: Path
    received: int = 0
    sha256: _Hash = field(default_factory=hashlib.sha256)

    def reset(self) -> None:
        """Begin anew."""
        self.received = 0
        self.sha256 = hashlib.sha256()


class StallGuard:
    """Tells when a registry sends too little for too long."""

    def __init__(self, limits: PullLimits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._since = clock.monotonic()
        self._bytes = 0

    def count(self, size: int) -> None:
        """Note bytes that came. Raises UnreachableError."""
        self._bytes += size
        if self._clock.monotonic() - self._since < self._limits.stall_seconds:
            return
        if self._bytes < self._limits.stall_bytes:
            raise UnreachableError(
                f"the registry sends less than {self._limits.stall_bytes} bytes in "
                f"{self._limits.stall_seconds:g} s"
            )
        self._since, self._bytes = self._clock.monotonic(), 0


def download(
    client: Client,
    descriptor: Descriptor,
    partial: Partial,
    *,
    limits: PullLimits,
    clock: Clock,
    cancellation: Cancellation,
) -> None:
    """Bring a blob into partial.path, whole and with the descriptor's size and digest.

    Raises UnreachableError, leaving what has come for the next attempt, or DigestMismatchError,
    leaving nothing.
    """
    before = partial.received
    guard = StallGuard(limits, clock)
    try:
        with client.blob(descriptor.digest, offset=partial.received) as response:
            _begin(response, descriptor, partial)
            _receive(response, descriptor, partial, guard, cancellation)
        _verify(descriptor, partial)
    except DigestMismatchError:
        partial.reset()
        raise
    except UnreachableError:
        if partial.received == before:
            # The registry may not be able to go on from here: ask for the whole next time.
            partial.reset()
        raise


def _begin(response: requests.Response, descriptor: Descriptor, partial: Partial) -> None:
    """Check what the headers promise."""
    resumes = response.status_code == 206 and partial.received > 0
    if not resumes:
        partial.reset()
    elif not response.headers.get("Content-Range", "").startswith(f"bytes {partial.received}-"):
        partial.reset()
        raise UnreachableError("the registry sends another part of a layer than was asked for")
    length = response.headers.get("Content-Length", "")
    expected = descriptor.size - partial.received
    if length.isdecimal() and int(length[:20]) != expected:
        raise DigestMismatchError(
            f"the registry sends {length[:20]} bytes of layer {descriptor.digest} "
            f"instead of {expected}"
        )


def _receive(
    response: requests.Response,
    descriptor: Descriptor,
    partial: Partial,
    guard: StallGuard,
    cancellation: Cancellation,
) -> None:
    with partial.path.open("r+b" if partial.path.exists() else "xb") as file:
        file.truncate(partial.received)
        file.seek(0, os.SEEK_END)
        while piece := _piece(response):
            cancellation.check()
            guard.count(len(piece))
            if partial.received + len(piece) > descriptor.size:
                raise DigestMismatchError(
                    f"the registry sends more than the {descriptor.size} bytes of layer "
                    f"{descriptor.digest}"
                )
            file.write(piece)
            partial.sha256.update(piece)
            partial.received += len(piece)


def _piece(response: requests.Response) -> bytes:
    """Return what has come, as soon as anything has; empty at the end."""
    try:
        piece: bytes = response.raw.read1(_CHUNK, decode_content=False)
    except (HTTPError, OSError) as error:
        raise UnreachableError(f"the registry breaks off in a layer: {type(error).__name__}") from (
            error
        )
    return piece


def _verify(descriptor: Descriptor, partial: Partial) -> None:
    if partial.received < descriptor.size:
        raise UnreachableError(
            f"the registry breaks off in layer {descriptor.digest} after {partial.received} "
            f"of {descriptor.size} bytes"
        )
    found = partial.sha256.hexdigest()
    if found != hex_of(descriptor.digest):
        raise DigestMismatchError(
            f"the registry sends a layer of sha256:{found} for {descriptor.digest}"
        )
