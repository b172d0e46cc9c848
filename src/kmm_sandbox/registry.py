"""A registry: Debian's docker-registry, open or with a password, or another program."""

import base64
import ctypes
import http.client
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import yaml

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import Launcher, Process, wait_until

PROGRAM = "docker-registry"
READY_SECONDS = 30.0
LIMIT_SECONDS = 60.0
_BCRYPT_SALT = b"$2b$05$abcdefghijklmnopqrstuu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who may pull and push."""

    user: str
    password: str = field(repr=False)

    @property
    def header(self) -> str:
        pair = f"{self.user}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    def docker_config(self, registry: str) -> str:
        """Return the content of a kubernetes.io/dockerconfigjson Secret."""
        auth = {"username": self.user, "password": self.password}
        return json.dumps({"auths": {registry: auth}})


@dataclass(slots=True, kw_only=True)
class Registry:
    """A running registry; speaks plain HTTP."""

    host: str
    port: int
    process: Process
    login: Login | None = None

    @classmethod
    def start(
        cls,
        directory: Path,
        launcher: Launcher,
        *,
        host: str,
        port: int,
        login: Login | None = None,
    ) -> "Registry":
        """Start it and wait until it answers. Raises SandboxError."""
        directory.mkdir(parents=True, exist_ok=True)
        settings = directory / "registry.yml"
        settings.write_text(yaml.safe_dump(_settings(directory, host, port, login)))
        argv = [PROGRAM, "serve", str(settings)]
        return cls.started(argv, launcher, host=host, port=port, login=login)

    @classmethod
    def started(
        cls,
        argv: Sequence[str],
        launcher: Launcher,
        *,
        host: str,
        port: int,
        login: Login | None = None,
    ) -> "Registry":
        """Start a program that listens there, wait until it answers. Raises SandboxError."""
        process = launcher.start(f"registry-{port}", argv)
        registry = cls(host=host, port=port, process=process, login=login)
        try:
            wait_until(registry.is_ready, seconds=READY_SECONDS, what=f"registry on {host}:{port}")
        except BaseException:
            registry.stop()
            raise
        return registry

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def is_ready(self) -> bool:
        """Tell whether it answers. Raises SandboxError if it has ended."""
        self.process.require_alive()
        try:
            return self._request("GET", "/v2/")[0] in (200, 401)
        except OSError:
            return False

    def put_blob(self, repository: str, digest: str, content: bytes) -> None:
        """Store a blob. Raises SandboxError."""
        status, location = self._request("POST", f"/v2/{repository}/blobs/uploads/")
        self._expect(status, 202, f"upload to {repository}")
        # Relative or absolute: only the path counts here.
        path = "/" + location.split("/", 3)[3] if "://" in location else location
        target = f"{path}{'&' if '?' in path else '?'}digest={quote(digest)}"
        status, _ = self._request("PUT", target, content, "application/octet-stream")
        self._expect(status, 201, f"blob {digest}")

    def put_manifest(self, repository: str, tag: str, content: bytes, media_type: str) -> None:
        """Store a manifest under a tag. Raises SandboxError."""
        path = f"/v2/{repository}/manifests/{tag}"
        status, _ = self._request("PUT", path, content, media_type)
        self._expect(status, 201, f"manifest {repository}:{tag}")

    def stop(self) -> None:
        """Kill it."""
        self.process.kill()

    def _expect(self, status: int, wanted: int, what: str) -> None:
        if status != wanted:
            raise SandboxError(f"registry {self.address}: {what}: HTTP {status}")

    def _request(
        self, method: str, path: str, body: bytes | None = None, content_type: str = ""
    ) -> tuple[int, str]:
        headers = {"Content-Type": content_type} if content_type else {}
        if self.login is not None:
            headers["Authorization"] = self.login.header
        connection = http.client.HTTPConnection(self.host, self.port, timeout=LIMIT_SECONDS)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.headers.get("Location", "")
        finally:
            connection.close()


def _settings(directory: Path, host: str, port: int, login: Login | None) -> dict[str, object]:
    settings: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}},
        "http": {"addr": f"{host}:{port}"},
    }
    if login is not None:
        users = directory / "htpasswd"
        users.write_text(f"{login.user}:{_bcrypt(login.password)}\n")
        settings["auth"] = {"htpasswd": {"realm": "sandbox", "path": str(users)}}
    return settings


def _bcrypt(password: str) -> str:
    """Return a hash that the registry accepts: bcrypt only, which libcrypt has."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    hashed: bytes = library.crypt(password.encode(), _BCRYPT_SALT)
    return hashed.decode()
