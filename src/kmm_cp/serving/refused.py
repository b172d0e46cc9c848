"""Peers that never get as far as a call: why, and what to do about it."""

import logging
import ssl

from kmm_common.clock import Clock
from kmm_common.logs import log
from kmm_common.tls import CERTIFICATE_EXPIRED, CERTIFICATE_NOT_YET_VALID
from kmm_common.wire.http2 import Breach
from kmm_cp.serving.crowd import CrowdedError
from kmm_cp.serving.ports import Observer, Refusal
from kmm_cp.serving.rarely import Rarely

logger = logging.getLogger(__name__)

_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST"})

_ISSUE = (
    "have the daemon's tls.cert issued by an authority in the control plane's tls.ca, for clients"
)
_DAEMONS_ONLY = "point only daemons of this version at the control plane's listen"
_REMEDIES = {
    Refusal.CROWDED: (
        "find out what on this host connects so often; behind a NAT, let daemons connect directly"
    ),
    Refusal.NO_TLS: f"{_DAEMONS_ONLY}, and probes at metrics_listen",
    Refusal.HANDSHAKE_FAILED: (
        "if it is a daemon, its log says why; its tls.ca must hold the authority of the control"
        " plane's tls.cert, and that must name its server_name"
    ),
    Refusal.NO_CERTIFICATE: f"{_ISSUE}, and set the daemon's tls.cert and tls.key to it",
    Refusal.UNTRUSTED_CERTIFICATE: _ISSUE,
    Refusal.CERTIFICATE_EXPIRED: "renew the daemon's tls.cert, or set this machine's clock",
    Refusal.CERTIFICATE_NOT_YET_VALID: "set the clock of this machine, or of the issuer's",
    Refusal.NO_HTTP2: _DAEMONS_ONLY,
    Refusal.MESSAGE_TOO_LARGE: _DAEMONS_ONLY,
    Refusal.TOO_MANY_STREAMS: _DAEMONS_ONLY,
}
_UNTRUSTED = {
    CERTIFICATE_EXPIRED: Refusal.CERTIFICATE_EXPIRED,
    CERTIFICATE_NOT_YET_VALID: Refusal.CERTIFICATE_NOT_YET_VALID,
}
_BREACHES = {
    Breach.NO_HTTP2: Refusal.NO_HTTP2,
    Breach.MESSAGE_TOO_LARGE: Refusal.MESSAGE_TOO_LARGE,
    Breach.TOO_MANY_STREAMS: Refusal.TOO_MANY_STREAMS,
}


class RefusedPeers:
    """Counts every refused peer; logs each host and reason once in a while."""

    def __init__(self, observer: Observer, clock: Clock) -> None:
        self._observer = observer
        self._rarely = Rarely(clock)

    def handshake(self, peer: str, error: OSError) -> None:
        """Tell of a TLS handshake that failed."""
        self._tell(peer, why(error), _told(error))

    def breach(self, breach: Breach, peer: str, problem: str) -> None:
        """Tell of a peer that breaks the rules of HTTP/2 or the bound of a message."""
        self._tell(peer, _BREACHES[breach], problem)

    def _tell(self, peer: str, refusal: Refusal, problem: str) -> None:
        self._observer.turned_away(refusal)
        host = peer.rpartition(":")[0]
        if self._rarely((host, refusal)):
            fields = {"peer": peer, "reason": refusal, "error": problem}
            remedy = _REMEDIES[refusal]
            log(logger, logging.WARNING, "peer refused", **fields, remedy=remedy)


def why(error: OSError) -> Refusal:
    """Return why a handshake failed, or was not begun."""
    if isinstance(error, CrowdedError):
        return Refusal.CROWDED
    if isinstance(error, ssl.SSLCertVerificationError):
        return _UNTRUSTED.get(error.verify_code, Refusal.UNTRUSTED_CERTIFICATE)
    if not isinstance(error, ssl.SSLError):
        return Refusal.HANDSHAKE_FAILED
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return Refusal.NO_CERTIFICATE
    return Refusal.NO_TLS if error.reason in _NO_TLS else Refusal.HANDSHAKE_FAILED


def _told(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS handshake: {error.reason.replace('_', ' ').lower()}"
    return str(error) or "it ended the connection in the TLS handshake"
