"""A registry on loopback that serves what it is given, and lies where it is told to."""

import asyncio
import base64
import contextlib
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

Fault = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass(kw_only=True)
class _Rule:
    path_part: str
    fault: Fault
    left: int


@dataclass(kw_only=True)
class BadRegistry:
    """Content by digest and tag; faults by a part of the path, each for a number of requests."""

    port: int = 0
    blobs: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    """repository:tag to digest."""
    auth: str = ""
    """Empty, basic or bearer."""
    user: str = "robot"
    password: str = "s3cret"
    refresh_token: str = ""
    realm: str = ""
    tokens: set[str] = field(default_factory=set)
    uses_per_token: int = 1_000
    seen: list[str] = field(default_factory=list)
    """`METHOD path` of every request."""
    ranges: list[str] = field(default_factory=list)
    _faults: list[_Rule] = field(default_factory=list)
    _uses: dict[str, int] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def push(
        self,
        repository: str,
        tag: str,
        layers: list[bytes],
        *,
        platforms: tuple[str, ...] = (),
        **changes: object,
    ) -> str:
        """Store an image, for several platforms as an index, and return its digest."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": "application/json", "digest": self.add(b"{}"), "size": 2},
            "layers": [
                {"mediaType": LAYER, "digest": self.add(layer), "size": len(layer)}
                for layer in layers
            ],
            **changes,
        }
        digest = self.add(json.dumps(manifest).encode())
        if platforms:
            digest = self.add(json.dumps(self._index(digest, platforms)).encode())
        self.tags[f"{repository}:{tag}"] = digest
        return digest

    def add(self, content: bytes) -> str:
        digest = digest_of(content)
        self.blobs[digest] = content
        return digest

    def fail(self, path_part: str, fault: Fault, *, times: int = 1) -> None:
        """Answer the next requests whose path has this part with a fault."""
        self._faults.append(_Rule(path_part=path_part, fault=fault, left=times))

    def count(self, part: str) -> int:
        """Return how many requests had this part."""
        return sum(part in line for line in self.seen)

    def _index(self, digest: str, platforms: tuple[str, ...]) -> dict[str, object]:
        entries = []
        for platform in platforms:
            os_name, architecture = platform.split("/")
            entries.append(
                {
                    "mediaType": MANIFEST,
                    "digest": digest,
                    "size": len(self.blobs[digest]),
                    "platform": {"os": os_name, "architecture": architecture},
                }
            )
        return {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}

    @contextlib.asynccontextmanager
    async def run(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["BadRegistry"]:
        """Serve until the body ends."""
        app = web.Application()
        app.router.add_route("*", "/token", self._token)
        app.router.add_route("GET", "/v2/{name:.+}/{kind:manifests|blobs}/{ref}", self._content)
        app.router.add_route("GET", "/elsewhere/{ref}", self._elsewhere)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _content(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path}")
        if (refusal := self._refusal(request)) is not None:
            return refusal
        ref = request.match_info["ref"]
        digest = self.tags.get(f"{request.match_info['name']}:{ref}", ref)
        content = self.blobs.get(digest)
        if (fault := self._fault(request)) is not None:
            return await fault(request, content or b"")
        if content is None:
            return web.json_response({"errors": [{"code": "NOT_FOUND"}]}, status=404)
        return self._serve(request, content)

    async def _elsewhere(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path}")
        return self._serve(request, self.blobs[request.match_info["ref"]])

    def _fault(self, request: web.Request) -> Fault | None:
        for rule in self._faults:
            if rule.path_part in request.path and rule.left:
                rule.left -= 1
                return rule.fault
        return None

    def _serve(self, request: web.Request, content: bytes) -> web.Response:
        wanted = request.headers.get("Range", "")
        if wanted:
            self.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            return web.Response(status=206, body=content[start:], headers=headers)
        return web.Response(body=content, headers={"Docker-Content-Digest": digest_of(content)})

    def _refusal(self, request: web.Request) -> web.Response | None:
        sent = request.headers.get("Authorization", "")
        if not self.auth or (self.auth == "basic" and sent == self._basic()):
            return None
        if self.auth == "basic":
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="Registry"'})
        token = sent.removeprefix("Bearer ")
        if token in self.tokens and self._uses[token] < self.uses_per_token:
            self._uses[token] += 1
            return None
        realm = self.realm or f"http://{self.host}/token"
        challenge = f'Bearer realm="{realm}",service="bad",scope="repository:x:pull"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async def _token(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path}")
        if (fault := self._fault(request)) is not None:
            return await fault(request, b"")
        form = await request.post()
        by_refresh = self.refresh_token and form.get("refresh_token") == self.refresh_token
        if not by_refresh and request.headers.get("Authorization") != self._basic():
            return web.Response(status=401)
        token = f"token-{len(self.tokens)}"
        self.tokens.add(token)
        self._uses[token] = 0
        return web.json_response({"token": token, "access_token": token})

    def _basic(self) -> str:
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return f"Basic {pair}"


def status(code: int, **headers: str) -> Fault:
    """Answer with a status only."""

    async def fault(_request: web.Request, _content: bytes) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, headers=named)

    return fault


def other(content: bytes) -> Fault:
    """Answer with other bytes."""

    async def fault(_request: web.Request, _content: bytes) -> web.StreamResponse:
        return web.Response(body=content)

    return fault


def flipped_bit() -> Fault:
    """Answer with one bit changed."""

    async def fault(_request: web.Request, content: bytes) -> web.StreamResponse:
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        return web.Response(body=changed)

    return fault


def redirect(location: str) -> Fault:
    """Send the client elsewhere."""

    async def fault(_request: web.Request, _content: bytes) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": location})

    return fault


def truncated() -> Fault:
    """Promise the whole, send half of it and hang up."""

    async def fault(request: web.Request, content: bytes) -> web.StreamResponse:
        response = await _half(request, content)
        assert request.transport is not None
        request.transport.close()
        return response

    return fault


def stalled(reached: asyncio.Event | None = None) -> Fault:
    """Send half and then nothing, until the client leaves."""

    async def fault(request: web.Request, content: bytes) -> web.StreamResponse:
        response = await _half(request, content)
        if reached is not None:
            reached.set()
        await asyncio.Event().wait()
        return response

    return fault


def endless(piece: bytes) -> Fault:
    """Send the same bytes for ever."""

    async def fault(request: web.Request, _content: bytes) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(piece)

    return fault


async def _half(request: web.Request, content: bytes) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_length = len(content)
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    return response
