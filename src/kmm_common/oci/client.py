"""What is asked of a registry, over whatever sends the requests; blocking, for one thread."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import requests
from urllib3.exceptions import HTTPError

from kmm_common.oci.digest import digest_of, is_digest
from kmm_common.oci.errors import (
    DigestMismatchError,
    InvalidImageError,
    NotFoundError,
    UnauthorizedError,
    UnreachableError,
)
from kmm_common.oci.manifest import ACCEPTED, MANIFEST_BYTES
from kmm_common.oci.reference import ImageReference

_RETRY_AFTER_SECONDS = 300.0


class AccessRefusedError(Exception):
    """A challenge that has no answer; the message says why."""


class Sender(Protocol):
    """The one method of oras's Registry that is used."""

    def do_request(
        self, url: str, method: str = ..., *, headers: dict[str, str], stream: bool = ...
    ) -> requests.Response: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One repository of one registry. Every method raises the errors of kmm_common.oci.errors."""

    sender: Sender
    base: str
    """scheme://host[:port]"""
    reference: ImageReference

    def manifest(self, reference: ImageReference) -> bytes:
        """Return the bytes of the manifest or index, checked against the reference's digest."""
        headers = {"Accept": ", ".join(ACCEPTED)}
        with self._answer(reference.manifest_path, headers, stream=False) as response:
            content = response.content
            promised = response.headers.get("Docker-Content-Digest", "")
        if len(content) > MANIFEST_BYTES:
            raise InvalidImageError(
                f"manifest: larger than {MANIFEST_BYTES} bytes; push the image anew"
            )
        _check_digest(content, reference.digest or promised)
        return content

    @contextlib.contextmanager
    def blob(self, digest: str, *, offset: int) -> Iterator[requests.Response]:
        """Open a blob for reading, from `offset` on where the registry can (206), else from 0."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._answer(self.reference.blob_path(digest), headers, stream=True) as response:
            yield response

    @contextlib.contextmanager
    def _answer(
        self, path: str, headers: Mapping[str, str], *, stream: bool
    ) -> Iterator[requests.Response]:
        with _library_errors():
            response = self.sender.do_request(
                f"{self.base}{path}", "GET", headers=dict(headers), stream=stream
            )
            with contextlib.closing(response):
                _check_status(response)
                yield response


@contextlib.contextmanager
def _library_errors() -> Iterator[None]:
    """Turn what requests, urllib3 and oras raise into our errors."""
    try:
        yield
    except AccessRefusedError as error:
        raise UnauthorizedError(str(error)) from None
    except (requests.RequestException, HTTPError) as error:
        raise UnreachableError(_told(error)) from error


def _told(error: Exception) -> str:
    """Return the innermost cause, without the memory addresses of urllib3's objects."""
    inner: BaseException = error
    while (cause := _cause(inner)) is not None:
        inner = cause
    text = str(inner).rpartition("object at 0x")[2].partition(">: ")[2] or str(inner)
    return f"the registry cannot be spoken to: {text[:300] or type(inner).__name__}"


def _cause(error: BaseException) -> BaseException | None:
    candidates = [getattr(error, "reason", None), *error.args]
    return next((one for one in candidates if isinstance(one, BaseException)), None)


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status == 404:
        raise NotFoundError("the registry has no such image")
    if status in (401, 403):
        raise UnauthorizedError(f"the registry refuses access ({status})")
    raise UnreachableError(
        f"the registry answers {status}", retry_after=_retry_after(response.headers)
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of Retry-After; its other form, a date, is not relied on."""
    text = headers.get("Retry-After", "")
    if not (text.isascii() and text.isdecimal()):
        return None
    return min(float(text[:9]), _RETRY_AFTER_SECONDS)


def _check_digest(content: bytes, promised: str) -> None:
    found = digest_of(content)
    if is_digest(promised) and found != promised:
        raise DigestMismatchError(f"the registry sends a manifest of {found} for {promised}")
