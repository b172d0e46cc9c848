"""The API server as plain JSON: kubernetes_asyncio's credentials and pool, none of its models."""

import contextlib
import copy
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import aiohttp
from kubernetes_asyncio import client as k8s
from kubernetes_asyncio.config import ConfigException

from kmm_cp.kube import config
from kmm_cp.kube.errors import NotLeadingError, UnavailableError, from_answer
from kmm_cp.kube.resources import Resource

try:
    from orjson import dumps, loads
except ImportError:
    from json import loads  # type: ignore[assignment]

    def dumps(value: Any) -> bytes:  # type: ignore[misc]
        return json.dumps(value, separators=(",", ":")).encode()


Object = dict[str, Any]

REQUEST_SECONDS = 30.0
PAGE = 500

_JSON = "application/json"
_MERGE = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METHODS = {"get": "GET", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE"}
"""By verb, as the API server's audit log and RBAC call it."""
_NO_ANSWER = "<error>"
_UNAVAILABLE = (aiohttp.ClientError, OSError, TimeoutError, ValueError, ConfigException)
"""The last is told by a plugin or a file that was to renew our token."""


class Observer(Protocol):
    """Told what became of every write."""

    def written(self, *, resource: str, verb: str, code: str) -> None:
        """Resource with its subresource, and HTTP's status code; "<error>" without an answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    verb: str
    resource: Resource
    name: str = ""
    namespace: str = ""
    subresource: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = _JSON
    accept: str = _JSON

    @property
    def path(self) -> str:
        return self.resource.path(self.name, namespace=self.namespace, subresource=self.subresource)

    @property
    def text(self) -> str:
        return f"{_METHODS[self.verb]} {self.path}"


class KubeClient:
    """Requests with a deadline and typed errors (kmm_cp.kube.errors)."""

    def __init__(
        self,
        configuration: Any,
        *,
        user_agent: str,
        field_manager: str,
        observer: Observer | None = None,
    ) -> None:
        self._configuration = configuration
        self._api = k8s.ApiClient(configuration)
        self._session: aiohttp.ClientSession = self._api.rest_client.pool_manager
        self._headers = {"User-Agent": user_agent}
        self._field_manager = field_manager
        self._observer = observer
        self._may_write: Callable[[], bool] = lambda: True

    @classmethod
    async def connect(
        cls,
        kubeconfig: Path | None,
        *,
        user_agent: str,
        field_manager: str,
        observer: Observer | None = None,
    ) -> "KubeClient":
        """Return a client for a kubeconfig file, or for the Pod's service account.

        Raises TerminalError (kmm_cp.kube.config.loaded).
        """
        async with config.loaded(kubeconfig) as configuration:
            return cls(
                configuration, user_agent=user_agent, field_manager=field_manager, observer=observer
            )

    def fenced(self, may_write: Callable[[], bool], *, user_agent: str) -> "KubeClient":
        """Return this client, over the same connections, for writes that not everybody may make.

        It asks right before each of them is sent: NotLeadingError if it may not be. The API
        server's audit log tells them apart by `user_agent`.
        """
        fenced = copy.copy(self)
        fenced._may_write = may_write
        fenced._headers = {"User-Agent": user_agent}
        return fenced

    async def close(self) -> None:
        """Close the connection pool."""
        await self._api.close()

    async def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        """Read one object, with quorum."""
        return await self._request(
            _Request(verb="get", resource=resource, name=name, namespace=namespace)
        )

    async def get_metadata(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        """Read one object's metadata, with quorum; the API server keeps the rest to itself."""
        return await self._request(
            _Request(
                verb="get", resource=resource, name=name, namespace=namespace, accept=_METADATA
            )
        )

    async def pages(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        label_selector: str = "",
        name: str = "",
        limit: int = PAGE,
    ) -> AsyncGenerator[Object, None]:
        """Yield the pages of a collection, each a list object of at most `limit` items.

        With `name` it holds that object at most: what a right to list is enough for.
        """
        query: dict[str, str] = {"limit": str(limit)}
        if label_selector:
            query["labelSelector"] = label_selector
        if name:
            query["fieldSelector"] = f"metadata.name={name}"
        while True:
            page = await self._request(
                _Request(verb="get", resource=resource, namespace=namespace, query=query)
            )
            yield page
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return

    async def named(self, resource: Resource, name: str) -> list[Object]:
        """Return the objects of one name in all namespaces, as the API server's cache has them."""
        query = {"fieldSelector": f"metadata.name={name}", "resourceVersion": "0"}
        answer = await self._request(_Request(verb="get", resource=resource, query=query))
        items: list[Object] = answer["items"]
        return items

    async def create(self, resource: Resource, body: Object, *, namespace: str = "") -> Object:
        return await self._request(
            _Request(verb="create", resource=resource, namespace=namespace, body=body)
        )

    async def replace(
        self, resource: Resource, name: str, body: Object, *, namespace: str = ""
    ) -> Object:
        """PUT; ConflictError if the body's resourceVersion is not the newest."""
        return await self._request(
            _Request(verb="update", resource=resource, name=name, namespace=namespace, body=body)
        )

    async def patch_merge(
        self,
        resource: Resource,
        name: str,
        body: Object,
        *,
        namespace: str = "",
        subresource: str = "",
    ) -> Object:
        return await self._request(
            _Request(
                verb="patch",
                resource=resource,
                name=name,
                namespace=namespace,
                subresource=subresource,
                body=body,
                content_type=_MERGE,
            )
        )

    async def patch_json(
        self,
        resource: Resource,
        name: str,
        operations: list[Object],
        *,
        namespace: str = "",
        subresource: str = "",
    ) -> Object:
        """JSON patch; InvalidError if one of its tests fails."""
        return await self._request(
            _Request(
                verb="patch",
                resource=resource,
                name=name,
                namespace=namespace,
                subresource=subresource,
                body=operations,
                content_type=_JSON_PATCH,
            )
        )

    async def delete(
        self, resource: Resource, name: str, *, namespace: str = "", uid: str = ""
    ) -> Object:
        """Delete an object; with `uid` only that one: ConflictError for another of its name."""
        body = {"preconditions": {"uid": uid}} if uid else None
        return await self._request(
            _Request(verb="delete", resource=resource, name=name, namespace=namespace, body=body)
        )

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        inactivity: float,
        namespace: str = "",
        label_selector: str = "",
    ) -> AsyncGenerator[Object, None]:
        """Yield watch events until the server ends the stream or is silent for too long (s)."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": "300",
        }
        if label_selector:
            query["labelSelector"] = label_selector
        request = _Request(verb="get", resource=resource, namespace=namespace, query=query)
        # sock_read also limits the wait for the answer: a connection of the pool may be dead.
        timeout = aiohttp.ClientTimeout(total=None, connect=REQUEST_SECONDS, sock_read=inactivity)
        try:
            async with self._send(request, timeout) as response:
                async for line in response.content:
                    yield loads(line)
        except aiohttp.SocketTimeoutError:
            return
        except _UNAVAILABLE as error:
            raise _unavailable(f"watch {request.path}", error) from error

    async def _request(self, request: _Request) -> Object:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        try:
            async with self._send(request, timeout) as response:
                answer: Object = loads(await response.read())
                return answer
        except _UNAVAILABLE as error:
            raise _unavailable(request.text, error) from error

    @contextlib.asynccontextmanager
    async def _send(
        self, request: _Request, deadlines: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; raise the typed error for any answer but 2xx."""
        headers = {**self._headers, "Accept": request.accept}
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        for setting in (await self._configuration.auth_settings()).values():
            headers[setting["key"]] = setting["value"]
        if request.verb != "get" and not self._may_write():
            raise NotLeadingError(f"{request.text}: not the leader any more", reason="NotLeading")
        code = _NO_ANSWER
        try:
            async with self._session.request(
                _METHODS[request.verb],
                self._url(request),
                data=None if request.body is None else dumps(request.body),
                headers=headers,
                timeout=deadlines,
            ) as response:
                code = str(response.status)
                if not response.ok:
                    raise from_answer(
                        request.text, response.status, await _body(response), _wait(response)
                    )
                yield response
        finally:
            self._tell(request, code)

    def _url(self, request: _Request) -> str:
        manager = {"fieldManager": self._field_manager} if request.body else {}
        query = {**request.query, **manager}
        url = f"{self._configuration.host}{request.path}"
        return f"{url}?{urlencode(query)}" if query else url

    def _tell(self, request: _Request, code: str) -> None:
        if self._observer is None or request.verb == "get":
            return
        sub = f"/{request.subresource}" if request.subresource else ""
        resource = f"{request.resource.plural}{sub}"
        self._observer.written(resource=resource, verb=request.verb, code=code)


def _unavailable(request: str, error: Exception) -> UnavailableError:
    told = f": {error}" if str(error) else ""
    return UnavailableError(f"{request}: {type(error).__name__}{told}", reason="Unavailable")


async def _body(response: aiohttp.ClientResponse) -> Any:
    try:
        return loads(await response.read())
    except ValueError:
        return None


def _wait(response: aiohttp.ClientResponse) -> float | None:
    """Return Retry-After in seconds; Kubernetes sends whole numbers only."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None
