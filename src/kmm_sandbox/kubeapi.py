"""A few lines of HTTP to the API server: what the sandbox and its tests read and write."""

import http.client
import json
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kmm_common.errors import KmmError

Object = dict[str, Any]
MERGE_PATCH = "application/merge-patch+json"
LIMIT_SECONDS = 30.0


class ApiError(KmmError):
    """The API server refused a request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}", reason="ApiRefused")
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeApi:
    """Requests as one user, each on a connection of its own: safe in any thread."""

    url: str
    context: ssl.SSLContext = field(repr=False)

    @classmethod
    def login(cls, *, url: str, ca: Path, cert: Path, key: Path) -> "KubeApi":
        """Return a client that identifies itself by a client certificate."""
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(cert, key)
        return cls(url=url, context=context)

    def request(
        self, method: str, path: str, body: Object | None = None, *, content: str = ""
    ) -> Object:
        """Send one request; return the answer's JSON. Raises ApiError, OSError."""
        status, text = self._exchange(method, path, body, content or "application/json")
        answer: Object = {}
        if text[:1] == b"{":
            answer = json.loads(text)
        if status >= 400:
            raise ApiError(status, answer.get("message", text.decode(errors="replace")))
        return answer

    def get(self, path: str) -> Object:
        """Return an object or a list."""
        return self.request("GET", path)

    def find(self, path: str) -> Object | None:
        """Return an object, or None if there is none."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str) -> list[Object]:
        """Return the items of a list."""
        items: list[Object] = self.get(path)["items"]
        return items

    def create(self, path: str, body: Object) -> Object:
        """Create an object in a collection."""
        return self.request("POST", path, body)

    def ensure(self, path: str, body: Object) -> None:
        """Create an object in a collection unless one of its name is there."""
        try:
            self.create(path, body)
        except ApiError as error:
            if error.status != 409:
                raise

    def merge(self, path: str, body: Object) -> Object:
        """Patch an object, its status or its scale by a JSON merge patch."""
        return self.request("PATCH", path, body, content=MERGE_PATCH)

    def delete(self, path: str, *, options: Object | None = None) -> None:
        """Delete an object; one that is gone is fine."""
        try:
            self.request("DELETE", path, options)
        except ApiError as error:
            if error.status != 404:
                raise

    def is_ready(self) -> bool:
        """Tell whether /readyz answers 200."""
        try:
            return self._exchange("GET", "/readyz", None, "")[0] == 200
        except OSError:
            return False

    def _exchange(
        self, method: str, path: str, body: Object | None, content: str
    ) -> tuple[int, bytes]:
        address = urlsplit(self.url)
        connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, timeout=LIMIT_SECONDS, context=self.context
        )
        try:
            payload = None if body is None else json.dumps(body).encode()
            headers = {"Content-Type": content, "Accept": "application/json"}
            connection.request(method, path, payload, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            # An API server that is killed while it answers: as one that cannot be reached.
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
