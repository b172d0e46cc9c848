"""TLS between daemons and the control plane: 1.3 only, both sides with certificates."""

import asyncio
import asyncio.sslproto
import contextlib
import logging
import os
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmm_common.clock import Clock
from kmm_common.errors import KmmError, TerminalError
from kmm_common.logs import log

logger = logging.getLogger(__name__)

READ_BUFFER_BYTES = 16 * 2**10
"""Of every TLS connection; CPython's own 256 KiB are what thousands of connections live on."""
HANDSHAKE_SECONDS = 10.0
SHUTDOWN_SECONDS = 1.0
"""asyncio waits 30 s for a dead peer to say goodbye."""
RELOAD_SECONDS = 10.0
READS = 30
"""Of files that are replaced again and again while they are read."""
CERTIFICATE_EXPIRED = 10
"""verify_code of an SSLCertVerificationError: X509_V_ERR_CERT_HAS_EXPIRED."""
CERTIFICATE_NOT_YET_VALID = 9
"""The same: X509_V_ERR_CERT_NOT_YET_VALID."""

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_NAME = r"[a-z0-9](?:[-.a-z0-9]{0,251}[a-z0-9])?"
_URI = re.compile(
    rf"spiffe://(?P<trust_domain>[-._a-z0-9]{{1,255}})/ns/(?P<namespace>{_LABEL})"
    rf"/sa/(?P<service_account>{_NAME})/pod/(?P<name>{_NAME})/(?P<uid>[-0-9A-Za-z]{{1,64}})"
)


class TlsFilesError(TerminalError):
    """A certificate, key or CA file cannot be used; names the file."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="InvalidCertificate")


class PeerIdentityError(KmmError):
    """A peer's certificate does not name a pod of our trust domain."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="InvalidIdentity")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files of one side."""

    cert: Path
    key: Path
    ca: Path
    """What the other side's certificate must be signed by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodIdentity:
    """Whom a daemon's certificate names."""

    namespace: str
    service_account: str
    name: str
    uid: str


def pod_uri(identity: PodIdentity, trust_domain: str) -> str:
    """Return the URI that names a pod in its certificate."""
    return (
        f"spiffe://{trust_domain}/ns/{identity.namespace}/sa/{identity.service_account}"
        f"/pod/{identity.name}/{identity.uid}"
    )


def pod_identity(certificate: Mapping[str, Any] | None, trust_domain: str) -> PodIdentity:
    """Return the pod that a certificate (ssl's getpeercert()) names. Raises PeerIdentityError."""
    names: Iterable[tuple[str, str]] = (certificate or {}).get("subjectAltName", ())
    uris = [value for kind, value in names if kind == "URI"]
    if len(uris) != 1:
        raise PeerIdentityError(f"the certificate has {len(uris)} URIs, exactly one is needed")
    match = _URI.fullmatch(uris[0])
    if match is None or match["trust_domain"] != trust_domain:
        raise PeerIdentityError(f"the certificate's URI names no pod of {trust_domain}")
    return PodIdentity(
        namespace=match["namespace"],
        service_account=match["service_account"],
        name=match["name"],
        uid=match["uid"],
    )


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context that shows our certificate and checks the server's. TlsFilesError."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, files)


Setup = Callable[[ssl.SSLContext], None]
"""What is changed on a context of the serving side, whichever files it is of."""


def server_only(context: ssl.SSLContext) -> None:
    """Serve anybody over HTTP/1.1: for whoever comes to get its first certificate."""
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])


def bound_read_buffers() -> None:
    """Make the read buffer of every TLS connection made from now on small, on asyncio's loop."""
    # Not public, so it is looked for: where it is gone, so is the need that was measured.
    if hasattr(asyncio.sslproto.SSLProtocol, "max_size"):
        asyncio.sslproto.SSLProtocol.max_size = READ_BUFFER_BYTES


class ServerTls:
    """The serving side's context; new files hold for new connections, old streams run on."""

    def __init__(self, files: TlsFiles, setup: Setup | None = None) -> None:
        self._files = files
        self._setup = setup
        self._loaded = _stamp(files)
        self._current = self._context()
        self.context = self._context()
        """For the listener. Each handshake is led over to the newest files."""
        self.context.sni_callback = self._lead_over

    def reload(self) -> bool:
        """Take over files that have changed; tell whether. TlsFilesError leaves the old ones."""
        stamp = _stamp(self._files)
        if stamp == self._loaded:
            return False
        self._current = self._context()
        self._loaded = stamp
        return True

    async def keep_fresh(self, clock: Clock) -> None:
        """Reload whenever the files change, until cancelled."""
        problem = ""
        while True:
            await clock.sleep(RELOAD_SECONDS)
            problem = await self._reload(problem)

    async def _reload(self, problem_before: str) -> str:
        try:
            if await asyncio.to_thread(self.reload):
                log(logger, logging.INFO, "certificates reloaded", cert=str(self._files.cert))
        except TlsFilesError as error:
            if str(error) != problem_before:
                log(logger, logging.ERROR, "certificates not reloaded", error=str(error))
            return str(error)
        return ""

    def _context(self) -> ssl.SSLContext:
        context = _context(ssl.PROTOCOL_TLS_SERVER, self._files)
        if self._setup:
            self._setup(context)
        return context

    def _lead_over(
        self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext
    ) -> None:
        connection.context = self._current


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    """Return a context of files that belong together: read anew if they are replaced meanwhile.

    kubelet and CSI drivers replace all three at once by one symbolic link, but they are opened
    one after the other: the certificate of one version could meet the key of the next.
    """
    usable: ssl.SSLContext | None = None
    for _ in range(READS):
        before = _seen(files)
        try:
            usable = _read_once(protocol, files)
        except TlsFilesError as error:
            problem = error
            if _seen(files) == before:
                raise
        else:
            if _seen(files) == before:
                return usable
    if usable is None:
        raise problem
    # They never rest. In what could be used, certificate and key are of one version at least.
    return usable


def _read_once(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        # No client of ours resumes; making two tickets costs a quarter of the handshake.
        context.num_tickets = 0
    with _named(files.cert, files.key):
        # Without a password given, OpenSSL asks for that of an encrypted key on the terminal.
        context.load_cert_chain(files.cert, files.key, password="")
    with _named(files.ca):
        context.load_verify_locations(files.ca)
    return context


@contextlib.contextmanager
def _named(*paths: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TlsFilesError(f"{', '.join(map(str, paths))}: {_remedy(error)}") from error


def _remedy(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not that of the certificate; put both of one issue there"
    return f"{error.strerror or error}; put PEM files there"


_Stamp = tuple[tuple[str, int, int, int], ...]


def _seen(files: TlsFiles) -> _Stamp | None:
    """Return the stamp; None while a file is not there."""
    try:
        return _stamp(files)
    except TlsFilesError:
        return None


def _stamp(files: TlsFiles) -> _Stamp:
    """Return what changes when a file is written or replaced, also behind a symbolic link."""
    with _named(files.cert, files.key, files.ca):
        return tuple(_identity(path) for path in (files.cert, files.key, files.ca))


def _identity(path: Path) -> tuple[str, int, int, int]:
    # Where the links lead to as well: a file that is gone may leave its number, and within a tick
    # of the kernel's clock its time, to its successor.
    stat = path.stat()
    return os.path.realpath(path), stat.st_ino, stat.st_mtime_ns, stat.st_size
