"""HTTP to a registry: every wait bounded, every destination checked, every body capped."""

from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager
from urllib3.util import Timeout

from kmm_common.oci.cancellation import Cancellation
from kmm_common.oci.destination import refusal

BODY_BYTES = 4 * 1024 * 1024 + 1
"""Of answers that are read as a whole: one byte more than the largest manifest."""
REDIRECTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds that one wait on a registry may last."""

    connect: float = 10.0
    read: float = 30.0
    """Between two pieces of an answer."""


class DestinationError(requests.RequestException):
    """A registry sent us where it must not."""


class Transport(HTTPAdapter):
    """The adapter of a session that talks to one registry on behalf of one thread."""

    def __init__(self, origin: str, timeouts: Timeouts, cancellation: Cancellation) -> None:
        self._origin = origin
        self._timeout = Timeout(connect=timeouts.connect, read=timeouts.read)
        self._pools = _tracked_pools(cancellation)
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> PoolManager:
        manager: PoolManager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, stream: bool = False, **kwargs: Any
    ) -> requests.Response:
        url = request.url or ""
        if problem := refusal(origin=self._origin, target=url):
            raise DestinationError(f"the registry sends us to {url[:200]!r}, which {problem}")
        kwargs["timeout"] = self._timeout
        response = super().send(request, stream=True, **kwargs)
        if not stream or response.is_redirect:
            _buffer(response)
        return response


def mount(session: requests.Session, transport: Transport) -> None:
    """Make a session use a transport for everything."""
    for prefix in ("https://", "http://"):
        session.mount(prefix, transport)
    session.max_redirects = REDIRECTS
    # An auth of any kind keeps requests from reading passwords out of ~/.netrc.
    session.auth = _unchanged
    session.headers.update({"Accept-Encoding": "identity", "User-Agent": "kmm"})


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _tracked_pools(cancellation: Cancellation) -> dict[str, type]:
    class TrackedHTTPConnection(HTTPConnection):
        def connect(self) -> None:
            cancellation.track(self)
            super().connect()

    class TrackedHTTPSConnection(HTTPSConnection):
        def connect(self) -> None:
            cancellation.track(self)
            super().connect()

    class TrackedHTTPPool(HTTPConnectionPool):
        ConnectionCls = TrackedHTTPConnection

    class TrackedHTTPSPool(HTTPSConnectionPool):
        ConnectionCls = TrackedHTTPSConnection

    return {"http": TrackedHTTPPool, "https": TrackedHTTPSPool}


def _buffer(response: requests.Response) -> None:
    """Read a body that the caller reads as a whole, up to the cap."""
    pieces, left = [], BODY_BYTES
    while left and (piece := response.raw.read1(left, decode_content=True)):
        pieces.append(piece)
        left -= len(piece)
    # What requests would set itself after reading without a cap.
    response._content = b"".join(pieces)
    response._content_consumed = True  # type: ignore[attr-defined]
    if left:
        response.raw.release_conn()
    else:
        response.raw.close()
