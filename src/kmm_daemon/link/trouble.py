"""Why there is no connection to the control plane, in words that name what to change."""

import ssl
from dataclasses import dataclass

from kmm_common.errors import TransientError
from kmm_common.tls import CERTIFICATE_EXPIRED, CERTIFICATE_NOT_YET_VALID, TlsFiles

_OTHER_NAMES = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH"""
_ISSUE = "have it issued by an authority in the control plane's tls.ca"


class NoConnectionError(TransientError):
    """There is no connection to the control plane; the message names the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Whom the daemon connects to, and with which files."""

    host: str
    port: int
    server_name: str
    """What the control plane's certificate must name."""
    files: TlsFiles

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def not_connected(self, error: OSError) -> str:
        """Return why connecting failed, TLS handshake included."""
        match error:
            case ssl.SSLCertVerificationError():
                return self._not_trusted(error)
            case ssl.SSLError():
                return self._refused(error) or (
                    f"no TLS 1.3 at {self} ({_words(error)}): set server to the host and port of"
                    " the control plane's listen"
                )
            case TimeoutError():
                return f"no answer from {self}: check server, and the network on the way there"
            case ConnectionResetError():
                return (
                    f"{self} ended the TLS handshake: set server to the host and port of the"
                    " control plane's listen"
                )
        return f"no connection to {self}: {error}: check server, and the control plane there"

    def lost(self, error: BaseException | None, *, heard: bool) -> str:
        """Return why a connection ended; `heard` tells whether anything ever came over it.

        With TLS 1.3 a client is done with the handshake before the server has looked at the
        client's certificate.
        """
        if isinstance(error, ssl.SSLError) and (refused := self._refused(error)):
            return refused
        if not heard:
            return (
                f"{self} ended the connection right after the TLS handshake, as a control plane"
                f" does that refuses this daemon's certificate {self.files.cert}: {_ISSUE}, or"
                " renew it; the control plane says why in its log, with 'peer refused'"
            )
        return f"the connection to {self} was lost{f': {error}' if error else ''}"

    def no_http2(self, problem: str) -> str:
        """Return what to do about a server that speaks something else."""
        return (
            f"{self} does not speak the control plane's protocol ({problem}): set server to the"
            " host and port of the control plane's listen"
        )

    def _not_trusted(self, error: ssl.SSLCertVerificationError) -> str:
        if error.verify_code in _OTHER_NAMES:
            return (
                f"the control plane's certificate does not name {self.server_name}: set"
                " server_name to a name that is in it"
            )
        if error.verify_code == CERTIFICATE_EXPIRED:
            return (
                f"the certificate of the control plane at {self} has expired by this node's clock:"
                " renew its tls.cert, or set the clock"
            )
        if error.verify_code == CERTIFICATE_NOT_YET_VALID:
            return (
                f"the certificate of the control plane at {self} is not valid yet by this node's"
                " clock: set the clock"
            )
        return (
            f"the control plane's certificate is not of an authority in {self.files.ca}"
            f" ({error.verify_message}): put the authority of the control plane's tls.cert there"
        )

    def _refused(self, error: ssl.SSLError) -> str:
        """Return what the control plane's alert says of our certificate; empty if nothing."""
        _, _, what = (error.reason or "").partition("_ALERT_")
        if what != "UNKNOWN_CA" and "CERTIFICATE" not in what:
            return ""
        return (
            f"the control plane at {self} refused this daemon's certificate {self.files.cert}:"
            f" {_words_of(what)}: {_ISSUE}"
        )


def _words(error: ssl.SSLError) -> str:
    return _words_of(error.reason or str(error))


def _words_of(constant: str) -> str:
    return constant.replace("_", " ").lower()
