"""The door to oras: requests to a registry, authenticated. Blocking, one client for one thread."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from oras.auth.token import TokenAuth
from oras.auth.utils import authHeader
from oras.provider import Registry

from kmm_common.desired import RegistryTLS
from kmm_common.oci.cancellation import Cancellation
from kmm_common.oci.challenge import FetchToken, GiveUp, SendBasic, answer
from kmm_common.oci.client import AccessRefusedError, Client
from kmm_common.oci.credentials import RegistryCredential
from kmm_common.oci.reference import ImageReference
from kmm_common.oci.transport import Timeouts, Transport, mount


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
        if self.tls.insecure_skip_tls_verify:
            return False
        return str(self.ca_file) if self.ca_file else True


@contextlib.contextmanager
def connect(
    reference: ImageReference, access: Access, cancellation: Cancellation
) -> Iterator[Client]:
    """Open a fresh client: oras keeps a token for an object, not for a repository."""
    base = f"{'http' if access.tls.insecure else 'https'}://{reference.host}"
    registry = _Registry(base, access)
    mount(registry.session, Transport(base, access.timeouts, cancellation))
    with registry.session:
        yield Client(sender=registry, base=base, reference=reference)


class _Registry(Registry):  # type: ignore[misc]
    # Without oras's retries: they block for 131 s, and know no deadline and no Retry-After.
    do_request = Registry.do_request.__wrapped__

    def __init__(self, base: str, access: Access) -> None:
        super().__init__(insecure=access.tls.insecure, tls_verify=access.verify)
        self.auth = _Auth(base, access.credential)
        self.auth.session = self.session
        self.auth.prefix = self.prefix
        self.auth._tls_verify = access.verify


class _Auth(TokenAuth):  # type: ignore[misc]
    """Follows kmm_common.oci.challenge; oras fetches the tokens."""

    def __init__(self, base: str, credential: RegistryCredential | None) -> None:
        super().__init__()
        self._base = base
        self._credential = credential
        if credential is not None and credential.username:
            self.set_basic_auth(credential.username, credential.password)

    def authenticate_request(
        self, original: requests.Response, headers: dict[str, str], refresh: bool = False
    ) -> tuple[dict[str, str], bool]:
        with contextlib.closing(original):
            decision = answer(
                original.headers.get("Www-Authenticate", ""),
                url=self._base,
                sent=original.request.headers.get("Authorization", ""),
                credential=self._credential,
            )
        match decision:
            case SendBasic(header=header):
                return {**headers, "Authorization": header}, True
            case FetchToken():
                self.token = self._fetch(decision)
                return {**headers, "Authorization": f"Bearer {self.token}"}, True
            case GiveUp(message=message):
                raise AccessRefusedError(message)

    def _fetch(self, wanted: FetchToken) -> str:
        header = authHeader(
            {"realm": wanted.realm, "service": wanted.service, "scope": wanted.scope}
        )
        try:
            token = self._ask(header)
        except AttributeError:  # oras takes every JSON answer for an object
            token = None
        if not isinstance(token, str) or not token:
            raise AccessRefusedError("the registry's token server gives no token")
        return token

    def _ask(self, header: authHeader) -> Any:
        if self._credential is not None and self._credential.identity_token:
            return self._exchange(header, self._credential.identity_token)
        if self._credential is not None:
            return self.request_token(header)
        return self.request_anonymous_token(header)

    def _exchange(self, header: authHeader, identity_token: str) -> Any:
        """Ask as OAuth2 does, with a refresh token, which oras cannot."""
        form = {
            "grant_type": "refresh_token",
            "client_id": "kmm",
            "service": header.service,
            "scope": header.scope,
            "refresh_token": identity_token,
        }
        reply = self.session.post(header.realm, data=form, verify=self._tls_verify)
        return reply.json().get("access_token") if reply.status_code == 200 else None
