"""Registry credentials: read from docker config secrets, chosen by the longest matching key."""

import base64
import binascii
import fnmatch
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kmm_common.api.names import Reason
from kmm_common.errors import TerminalError
from kmm_common.oci.reference import DOCKER_HUB, ImageReference

_DOCKER_HUB_KEYS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryCredential:
    """One entry of a docker config. Its secrets are in no repr, hence in no log or exception."""

    registry: str
    """The entry's key: a host, or a host and the start of a path; a host may have wildcards."""
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """Value of an Authorization header."""
        pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return f"Basic {pair}"


def credential_for(
    credentials: Iterable[RegistryCredential], reference: ImageReference
) -> RegistryCredential | None:
    """Return the credential whose key matches the repository most exactly, if any does."""
    ranked = [(_rank(one.registry, reference), one) for one in credentials]
    matching = [(rank, one) for rank, one in ranked if rank is not None]
    return max(matching, key=lambda pair: pair[0])[1] if matching else None


def _rank(key: str, reference: ImageReference) -> tuple[int, bool, int] | None:
    """Order by path parts, then by absence of wildcards, then by length; None: no match."""
    host, parts = _split_key(key)
    if not _host_matches(host, reference.registry):
        return None
    if reference.repository.split("/")[: len(parts)] != parts:
        return None
    return len(parts), "*" not in host, len(host)


def _split_key(key: str) -> tuple[str, list[str]]:
    bare = key.removeprefix("https://").removeprefix("http://")
    host, _, path = bare.partition("/")
    if host in _DOCKER_HUB_KEYS:
        host = DOCKER_HUB
    parts = [part for part in path.split("/") if part]
    # `https://index.docker.io/v1/` and `host/v2/` name an API, not a repository.
    return host, parts[1:] if parts[:1] in (["v1"], ["v2"]) else parts


def _host_matches(pattern: str, registry: str) -> bool:
    wanted, given = pattern.split("."), registry.split(".")
    return len(wanted) == len(given) and all(
        fnmatch.fnmatchcase(have, want) for have, want in zip(given, wanted, strict=True)
    )


def credentials_of_secret(name: str, data: Mapping[str, bytes]) -> tuple[RegistryCredential, ...]:
    """Return the credentials of an image pull Secret (decoded data).

    Raises TerminalError, which names the Secret and the field and never its content.
    """
    if ".dockerconfigjson" in data:
        field_name, content = ".dockerconfigjson", _json(name, data, ".dockerconfigjson")
        auths = content.get("auths", {})
    elif ".dockercfg" in data:
        field_name, auths = ".dockercfg", _json(name, data, ".dockercfg")
    else:
        raise _broken(name, "has neither .dockerconfigjson nor .dockercfg")
    if not isinstance(auths, dict):
        raise _broken(name, f"{field_name}: auths must be an object")
    return tuple(_entry(name, str(key), value) for key, value in auths.items())


def _json(name: str, data: Mapping[str, bytes], key: str) -> dict[str, object]:
    try:
        content = json.loads(data[key])
    except (ValueError, RecursionError):
        # The cause quotes the document, which holds passwords.
        raise _broken(name, f"{key} is not JSON") from None
    if not isinstance(content, dict):
        raise _broken(name, f"{key} must be an object")
    return content


def _entry(name: str, key: str, value: object) -> RegistryCredential:
    if not isinstance(value, dict):
        raise _broken(name, f"the entry of {key!r} must be an object")
    entry = {field_name: str(text) for field_name, text in value.items() if text}
    username, password = entry.get("username", ""), entry.get("password", "")
    if "auth" in entry:
        username, password = _decoded(name, key, entry["auth"])
    return RegistryCredential(
        registry=key,
        username=username,
        password=password,
        identity_token=entry.get("identitytoken", ""),
    )


def _decoded(name: str, key: str, auth: str) -> tuple[str, str]:
    try:
        username, _, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise _broken(name, f"auth of {key!r} is not base64 of user:password") from None
    return username, password


def _broken(name: str, problem: str) -> TerminalError:
    return TerminalError(
        f"Secret {name} {problem}; make it with `kubectl create secret docker-registry`",
        reason=Reason.IMAGE_UNAUTHORIZED,
    )
