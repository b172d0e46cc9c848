"""A reverse proxy in front of a real API server that breaks what a test tells it to break."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from kmm_common.listening import host_and_port
from kmm_sandbox.pki import Identity
from kmm_sandbox.ports import KeptPorts
from support.cluster import Cluster

Object = dict[str, Any]

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
WRITES = frozenset(_VERBS.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, in the API server's own words."""

    verb: str
    """get, list, watch, create, update, patch or delete."""
    resource: str
    """Plural; without a subresource."""
    name: str
    """Empty for collections."""
    query: dict[str, str]

    @classmethod
    def of(cls, request: web.Request) -> "Call":
        parts = request.path.strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        if parts[0] == "namespaces" and len(parts) > 2:
            parts = parts[2:]
        resource, name = parts[0], parts[1] if len(parts) > 1 else ""
        query = dict(request.query)
        verb = _VERBS.get(request.method) or ("get" if name else "list")
        return cls(
            verb="watch" if query.get("watch") else verb,
            resource=resource,
            name=name,
            query=query,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Fault: the server refuses."""

    code: int
    reason: str = ""
    retry_after: int | None = None

    def response(self) -> web.Response:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return web.json_response(status(self.code, self.reason), status=self.code, headers=headers)


@dataclass(frozen=True, slots=True)
class Hold:
    """Fault: the request is passed on when the test lets it."""

    release: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request waits."""


@dataclass(frozen=True, slots=True)
class Silence:
    """Fault: the connection stays open, and nothing is ever said on it."""


Fault = Answer | Hold | Silence

GONE = Answer(code=410, reason="Expired")


@dataclass(slots=True, kw_only=True)
class _Rule:
    fault: Fault
    verbs: frozenset[str]
    resource: str
    name: str
    query: str
    left: int | None

    def takes(self, call: Call) -> bool:
        return (
            self.left != 0
            and call.verb in self.verbs
            and self.resource in ("", call.resource)
            and self.name in ("", call.name)
            and (not self.query or self.query in call.query)
        )


@dataclass(slots=True, kw_only=True)
class Stream:
    """An open watch."""

    resource: str
    response: web.StreamResponse
    transport: asyncio.Transport
    silent: bool = False

    async def send(self, event: Object) -> None:
        """Say something that the server did not say."""
        await self.response.write(json.dumps(event).encode() + b"\n")


class FaultProxy:
    """Passes requests on as one user; plain HTTP towards the client, on loopback.

    Rewrites change what is passed on; faults are for whole requests; streams are watches in
    progress.
    """

    def __init__(self, upstream: str, tls: ssl.SSLContext) -> None:
        self.calls: list[Call] = []
        """Every request, the refused ones too."""
        self.rewrite_object: Callable[[Object], Object] = lambda content: content
        """Applied to each object of a list and each object of a watch event."""
        self.rewrite_event: Callable[[Object], Iterable[Object]] = lambda event: [event]
        """Applied to each watch event."""
        self._upstream = upstream
        self._tls = tls
        self._address = ""
        self._rules: list[_Rule] = []
        self._streams: list[Stream] = []
        self._connections: set[asyncio.Transport] = set()
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    @property
    def url(self) -> str:
        return f"http://{self._address}"

    # What a test tells it.

    def on(
        self,
        fault: Fault,
        *verbs: str,
        resource: str = "",
        name: str = "",
        query: str = "",
        times: int | None = None,
    ) -> None:
        """Break the next `times` requests of these verbs (None: all), with a query parameter."""
        rule = _Rule(
            fault=fault,
            verbs=frozenset(verbs),
            resource=resource,
            name=name,
            query=query,
            left=times,
        )
        self._rules.append(rule)

    def heal(self) -> None:
        """Forget all faults and rewrites; what hangs goes on hanging."""
        self._rules.clear()
        self.rewrite_object = lambda content: content
        self.rewrite_event = lambda event: [event]

    def seen(self, verb: str, resource: str) -> list[Call]:
        """Return the requests of a verb for a resource."""
        return [call for call in self.calls if (call.verb, call.resource) == (verb, resource)]

    def written(self) -> list[Call]:
        """Return the writing requests, but those by which a replica says that it lives or leads."""
        calls = (call for call in self.calls if call.verb in WRITES)
        return [call for call in calls if call.resource != "leases"]

    def streams(self, resource: str) -> list[Stream]:
        """Return the open watches of a resource."""
        return [each for each in self._streams if each.resource == resource]

    def cut(self, resource: str) -> None:
        """Break the connections of a resource's open watches."""
        for stream in self.streams(resource):
            stream.transport.abort()

    def silence(self, resource: str) -> None:
        """Say nothing more on a resource's open watches; later ones are fine."""
        for stream in self.streams(resource):
            stream.silent = True

    async def down(self) -> None:
        """Break all connections and refuse new ones."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        for transport in self._connections:
            transport.abort()
        self._connections.clear()

    async def up(self) -> None:
        """Take connections, on the same port as before."""
        assert self._runner is not None
        host, port = host_and_port(self._address)
        self._site = web.TCPSite(self._runner, host, port, reuse_address=True)
        await self._site.start()

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator["FaultProxy"]:
        """Serve until the body ends."""
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        session = aiohttp.ClientSession(connector=connector, read_bufsize=2**21)
        with KeptPorts() as ports:
            self._address = ports.address()
            async with session as self._session:
                await self.up()
                try:
                    yield self
                finally:
                    await self.down()
                    await self._runner.cleanup()

    # What it does.

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = Call.of(request)
        self.calls.append(call)
        assert isinstance(request.transport, asyncio.Transport)
        self._connections.add(request.transport)
        body = await request.read()
        match self._fault(call):
            case Answer() as answer:
                return answer.response()
            case Silence():
                await asyncio.Event().wait()
            case Hold(release, reached):
                reached.set()
                await release.wait()
        return await self._pass(request, call, body)

    def _fault(self, call: Call) -> Fault | None:
        rule = next((rule for rule in self._rules if rule.takes(call)), None)
        if rule is None:
            return None
        if rule.left is not None:
            rule.left -= 1
        return rule.fault

    async def _pass(self, request: web.Request, call: Call, body: bytes) -> web.StreamResponse:
        assert self._session is not None
        kept = ("Accept", "Content-Type", "User-Agent")
        async with self._session.request(
            request.method,
            self._upstream + request.path_qs,
            data=body,
            headers={key: request.headers[key] for key in kept if key in request.headers},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
        ) as answer:
            if call.verb == "watch" and answer.ok:
                return await self._follow(request, call, answer)
            content = await answer.read()
            if call.verb == "list" and answer.ok:
                page = json.loads(content)
                page["items"] = [self.rewrite_object(item) for item in page["items"]]
                content = json.dumps(page).encode()
            return web.Response(body=content, status=answer.status, content_type="application/json")

    async def _follow(
        self, request: web.Request, call: Call, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        """Pass a watch on, event by event."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        assert isinstance(request.transport, asyncio.Transport)
        stream = Stream(resource=call.resource, response=response, transport=request.transport)
        self._streams.append(stream)
        try:
            async for line in answer.content:
                for event in self._rewritten(json.loads(line)):
                    if not stream.silent:
                        await stream.send(event)
            while stream.silent:
                await asyncio.Event().wait()
        finally:
            self._streams.remove(stream)
        return response

    def _rewritten(self, event: Object) -> Iterable[Object]:
        content = event["object"]
        if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
            content = self.rewrite_object(content)
        return self.rewrite_event({**event, "object": content})


def status(code: int, reason: str = "") -> Object:
    """Return a metav1.Status, as answers and ERROR events have it."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": f"told to answer {code}",
    }


def error_event(code: int, reason: str = "") -> Object:
    """Return the event by which a server ends a watch it has begun."""
    return {"type": "ERROR", "object": status(code, reason)}


@contextlib.asynccontextmanager
async def proxied(
    cluster: Cluster, directory: Path, *, user: str, groups: Sequence[str] = ()
) -> AsyncIterator[tuple[FaultProxy, Path]]:
    """Run a proxy that passes on as `user`; yield it with the kubeconfig that leads through it."""
    identity = Identity(common_name=user, organizations=tuple(groups), client=True)
    credential = cluster.plane.authority.issue(identity)
    cert, key = credential.write(directory, "proxy")
    tls = ssl.create_default_context(cafile=str(cluster.ca))
    tls.load_cert_chain(cert, key)
    async with FaultProxy(cluster.url, tls).run() as proxy:
        path = directory / "proxy.kubeconfig"
        yield proxy, cluster.plane.write_kubeconfig(path, user, groups, server=proxy.url)
