"""The API server as plain JSON: kubernetes_asyncio's credentials and pool, none of its models."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes_asyncio import client as k8s
from kubernetes_asyncio import config as k8s_config

from kmm_common.errors import TerminalError
from kmm_cp.kube.errors import UnavailableError, from_answer
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

_MERGE = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"


class KubeClient:
    """Requests with a deadline and typed errors (kmm_cp.kube.errors)."""

    def __init__(self, configuration: Any, *, user_agent: str, field_manager: str) -> None:
        self._configuration = configuration
        self._api = k8s.ApiClient(configuration)
        self._session: aiohttp.ClientSession = self._api.rest_client.pool_manager
        self._headers = {"User-Agent": user_agent, "Accept": "application/json"}
        self._field_manager = field_manager

    @classmethod
    async def connect(
        cls, kubeconfig: Path | None, *, user_agent: str, field_manager: str
    ) -> "KubeClient":
        """Return a client for a kubeconfig file, or for the Pod's service account."""
        configuration = k8s.Configuration()
        try:
            if kubeconfig is None:
                k8s_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
            else:
                await k8s_config.load_kube_config(
                    config_file=str(kubeconfig), client_configuration=configuration
                )
        except (k8s_config.ConfigException, OSError) as error:
            raise TerminalError(
                f"kubeconfig {kubeconfig or '(in cluster)'}: {error}", reason="InvalidSettings"
            ) from error
        return cls(configuration, user_agent=user_agent, field_manager=field_manager)

    async def close(self) -> None:
        """Close the connection pool."""
        await self._api.close()

    async def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        """Read one object, with quorum."""
        return await self._request("GET", resource.path(name, namespace=namespace))

    async def pages(
        self, resource: Resource, *, namespace: str = "", label_selector: str = ""
    ) -> AsyncIterator[Object]:
        """Yield the pages of a collection, each a list object."""
        query: dict[str, str] = {"limit": str(PAGE)}
        if label_selector:
            query["labelSelector"] = label_selector
        while True:
            page = await self._request("GET", resource.path(namespace=namespace), query=query)
            yield page
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return

    async def create(self, resource: Resource, body: Object, *, namespace: str = "") -> Object:
        return await self._request("POST", resource.path(namespace=namespace), body=body)

    async def replace(
        self, resource: Resource, name: str, body: Object, *, namespace: str = ""
    ) -> Object:
        """PUT; ConflictError if the body's resourceVersion is not the newest."""
        return await self._request("PUT", resource.path(name, namespace=namespace), body=body)

    async def patch_merge(
        self,
        resource: Resource,
        name: str,
        body: Object,
        *,
        namespace: str = "",
        subresource: str = "",
    ) -> Object:
        path = resource.path(name, namespace=namespace, subresource=subresource)
        return await self._request("PATCH", path, body=body, content_type=_MERGE)

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
        path = resource.path(name, namespace=namespace, subresource=subresource)
        return await self._request("PATCH", path, body=operations, content_type=_JSON_PATCH)

    async def delete(
        self, resource: Resource, name: str, *, namespace: str = "", uid: str = ""
    ) -> Object:
        """Delete an object; with `uid` only that one: ConflictError for another of its name."""
        body = {"preconditions": {"uid": uid}} if uid else None
        path = resource.path(name, namespace=namespace)
        return await self._request("DELETE", path, body=body)

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        inactivity: float,
        namespace: str = "",
        label_selector: str = "",
    ) -> AsyncIterator[Object]:
        """Yield watch events until the server ends the stream or is silent for too long (s)."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": "300",
        }
        if label_selector:
            query["labelSelector"] = label_selector
        path = resource.path(namespace=namespace)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS)
        try:
            async with self._send("GET", path, query, None, "", timeout) as response:
                while True:
                    async with asyncio.timeout(inactivity):
                        line = await response.content.readline()
                    if not line:
                        return
                    yield loads(line)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise UnavailableError(f"watch {path}: {error!r}", reason="Unavailable") from error

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Object:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        query = {**(query or {}), **({"fieldManager": self._field_manager} if body else {})}
        try:
            async with self._send(method, path, query, body, content_type, timeout) as response:
                answer: Object = loads(await response.read())
                return answer
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            text = f"{method} {path}: {error!r}"
            raise UnavailableError(text, reason="Unavailable") from error

    @contextlib.asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any,
        content_type: str,
        deadlines: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; raise the typed error for any answer but 2xx."""
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = content_type
        for setting in (await self._configuration.auth_settings()).values():
            headers[setting["key"]] = setting["value"]
        url = f"{self._configuration.host}{path}"
        async with self._session.request(
            method,
            f"{url}?{urlencode(query)}" if query else url,
            data=None if body is None else dumps(body),
            headers=headers,
            timeout=deadlines,
        ) as response:
            if not response.ok:
                raise from_answer(
                    f"{method} {path}", response.status, await _body(response), _wait(response)
                )
            yield response


async def _body(response: aiohttp.ClientResponse) -> Any:
    try:
        return loads(await response.read())
    except ValueError:
        return None


def _wait(response: aiohttp.ClientResponse) -> float | None:
    """Return Retry-After in seconds; Kubernetes sends whole numbers only."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None
