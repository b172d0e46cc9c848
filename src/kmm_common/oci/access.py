"""How a registry is reached and who asks."""

import contextlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import requests

from kmm_common.desired import RegistryTLS
from kmm_common.oci.challenge import FetchToken, GiveUp, SendBasic, answer
from kmm_common.oci.client import AccessRefusedError
from kmm_common.oci.credentials import RegistryCredential
from kmm_common.oci.errors import UnreachableError
from kmm_common.oci.reference import ImageReference
from kmm_common.oci.transport import Timeouts


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the registry of an image is reached."""

    tls: RegistryTLS
    credential: RegistryCredential | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    ca_file: Path | None = None
    """PEM bundle instead of the one that requests brings or REQUESTS_CA_BUNDLE names."""

    @property
    def verify(self) -> bool | str:
        """What requests calls verify."""
        if self.tls.insecure_skip_tls_verify:
            return False
        return str(self.ca_file) if self.ca_file else True

    def require_authorities(self) -> None:
        """Raise UnreachableError, which names `ca_file`, if it is needed and of no use."""
        if self.ca_file is None or self.tls.insecure or self.tls.insecure_skip_tls_verify:
            return
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.ca_file)
        except OSError as error:
            raise UnreachableError(
                f"registry_ca: {self.ca_file} cannot be used ({error.strerror}); it must be a PEM"
                " file of certificate authorities"
            ) from error

    def base(self, reference: ImageReference) -> str:
        """Return scheme://host[:port] of an image's registry."""
        return f"{'http' if self.tls.insecure else 'https'}://{reference.host}"


class TokenSource(Protocol):
    """What is used of oras's TokenAuth; the tokens are whatever JSON the server sent."""

    def set_basic_auth(self, username: str, password: str) -> None: ...

    def request_token(self, h: FetchToken) -> Any: ...

    def request_anonymous_token(self, h: FetchToken) -> Any: ...


class Authenticator:
    """Stands in for oras's auth backend: obeys kmm_common.oci.challenge, lets oras fetch tokens.

    oras's own takes no Basic challenge and never renews a token. What the registry has accepted
    stays in the session's headers; requests drops it where a redirect leaves the host.
    """

    def __init__(
        self, tokens: TokenSource, session: requests.Session, base: str, access: Access
    ) -> None:
        self._tokens = tokens
        self._session = session
        self._base = base
        self._verify = access.verify
        self._credential = access.credential
        if self._credential is not None:
            tokens.set_basic_auth(self._credential.username, self._credential.password)

    def authenticate_request(
        self, original: requests.Response, headers: dict[str, str], refresh: bool = False
    ) -> tuple[dict[str, str], bool]:
        """Return the headers for the next try, as oras expects. Raises AccessRefusedError."""
        with contextlib.closing(original):
            decision = answer(
                original.headers.get("Www-Authenticate", ""),
                url=self._base,
                sent=original.request.headers.get("Authorization", ""),
                credential=self._credential,
            )
        self._session.headers.pop("Authorization", None)
        match decision:
            case SendBasic(header=header):
                self._session.headers["Authorization"] = header
            case FetchToken():
                self._session.headers["Authorization"] = f"Bearer {self._fetch(decision)}"
            case GiveUp(message=message):
                raise AccessRefusedError(message)
        return headers, True

    def _fetch(self, wanted: FetchToken) -> str:
        try:
            token = self._ask(wanted)
        except AttributeError:  # oras takes every JSON answer for an object
            token = None
        if not isinstance(token, str) or not token:
            raise AccessRefusedError("the registry's token server gives no token")
        return token

    def _ask(self, wanted: FetchToken) -> Any:
        if self._credential is None:
            return self._tokens.request_anonymous_token(wanted)
        if self._credential.identity_token:
            return self._exchange(wanted, self._credential.identity_token)
        return self._tokens.request_token(wanted)

    def _exchange(self, wanted: FetchToken, identity_token: str) -> Any:
        """Ask as OAuth2 does, with a refresh token, which oras cannot."""
        form = {
            "grant_type": "refresh_token",
            "client_id": "kmm",
            "service": wanted.service,
            "scope": wanted.scope,
            "refresh_token": identity_token,
        }
        reply = self._session.post(wanted.realm, data=form, verify=self._verify)
        return reply.json().get("access_token") if reply.status_code == 200 else None
