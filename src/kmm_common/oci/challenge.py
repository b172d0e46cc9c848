"""How a registry's demand for authentication is answered: pure decisions over headers."""

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from kmm_common.oci.credentials import RegistryCredential
from kmm_common.oci.destination import refusal

_PART = re.compile(
    r'(?P<key>[A-Za-z]+)=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s,"]+))'
    r"|(?P<scheme>(?i:bearer|basic))(?=[\s,]|$)",
    re.ASCII,
)
_HEADER_LENGTH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SendBasic:
    """Send the user's name and password."""

    header: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchToken:
    """Ask the realm for a token, with the credential if there is one."""

    realm: str
    service: str = ""
    scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """There is no answer; the message says why."""

    message: str


Answer = SendBasic | FetchToken | GiveUp


def answer(header: str, *, url: str, sent: str, credential: RegistryCredential | None) -> Answer:
    """Decide what follows a refusal.

    `header` is WWW-Authenticate, `url` what was asked for, `sent` the Authorization that the
    registry has refused. A refused bearer token has expired or covers too little: a new one is
    asked for. A refused password stays refused.
    """
    challenges = _challenges(header)
    if "bearer" in challenges:
        return _bearer(url, challenges["bearer"])
    if "basic" not in challenges:
        return GiveUp(message="the registry refuses access")
    if credential is None or not credential.username:
        return GiveUp(message="the registry wants a user name and a password")
    if sent.startswith("Basic "):
        return GiveUp(message="the registry refuses the user name or the password")
    return SendBasic(header=credential.basic)


def _bearer(url: str, parameters: dict[str, str]) -> Answer:
    realm = parameters.get("realm", "")
    if not _server(realm):
        return GiveUp(message=f"the registry names no token server: realm {realm[:100]!r}")
    if problem := refusal(origin=url, target=realm):
        return GiveUp(message=f"the registry's token server {realm[:100]!r} {problem}")
    return FetchToken(
        realm=realm,
        service=parameters.get("service", ""),
        scope=parameters.get("scope", ""),
    )


def _server(realm: str) -> str:
    try:
        return urlsplit(realm).netloc
    except ValueError:
        return ""


def _challenges(header: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    parameters: dict[str, str] = {}
    for part in _PART.finditer(header[:_HEADER_LENGTH]):
        if part["scheme"]:
            parameters = found.setdefault(part["scheme"].lower(), {})
        else:
            quoted = part["quoted"]
            value = part["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters[part["key"].lower()] = value
    return found
