"""What the serving side needs of the rest of the control plane."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from kmm_common.tls import PodIdentity
from kmm_cp.serving.updates import Kind
from kmm_cp.serving.values import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """What the API server says about a pod."""

    uid: str
    service_account: str
    node: str
    """Empty while the pod is not scheduled."""
    deleting: bool
    owner: str
    """kind/name of its controller; empty without one."""
    created: str = ""
    """RFC 3339, so that the text orders pods by age."""


class Pods(Protocol):
    """The cache of daemon pods."""

    def lookup(self, namespace: str, name: str) -> PodFacts | None:
        """Return what is known of a pod."""
        ...


class States(Protocol):
    """The persisted desired state of nodes."""

    def cached(self, node: str) -> Target | None:
        """Return what this replica's cache holds; it may be behind."""
        ...

    async def read(self, node: str) -> Target | None:
        """Return what the API server holds now. Raises TransientError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What the API server says about a token: of whom it is, and of which pod."""

    audiences: frozenset[str]
    """Those that were asked for and that it is for."""
    username: str
    pod: str
    """Name; empty if it is bound to none."""
    pod_uid: str


class Tokens(Protocol):
    """The API server's TokenReview."""

    async def review(self, token: str) -> Review | None:
        """Return what holds of a token; None if nothing does. Raises TransientError."""
        ...


class Secrets(Protocol):
    """The pull secrets of Modules."""

    async def read(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """Return the decoded data of a Secret, None if there is none. Raises TransientError."""
        ...


class Refusal(StrEnum):
    """Why a peer is not served, as metrics name it.

    Up to TOO_MANY_STREAMS it is what a peer sends, and no event is made of it; from there on it is
    whom its certificate names.
    """

    CROWDED = "Crowded"
    """Its host has too many connections without TLS."""
    NO_TLS = "NoTls"
    HANDSHAKE_FAILED = "HandshakeFailed"
    NO_CERTIFICATE = "NoCertificate"
    UNTRUSTED_CERTIFICATE = "UntrustedCertificate"
    CERTIFICATE_NOT_YET_VALID = "CertificateNotYetValid"
    NO_HTTP2 = "NoHttp2"
    TOKEN_REFUSED = "TokenRefused"  # noqa: S105 a word, no secret
    BAD_REQUEST = "BadRequest"
    TOO_MANY_REQUESTS = "TooManyRequests"
    MESSAGE_TOO_LARGE = "MessageTooLarge"
    TOO_MANY_STREAMS = "TooManyStreams"

    NO_POD = "NoPod"
    NOT_A_DAEMON = "NotADaemon"
    EARLIER_POD = "EarlierPod"
    OTHER_SERVICE_ACCOUNT = "OtherServiceAccount"
    OTHER_OWNER = "OtherOwner"
    POD_DELETING = "PodDeleting"
    """As of every daemon whose pod is replaced."""
    POD_MOVED = "PodMoved"
    OLDER_POD = "OlderPod"
    CERTIFICATE_EXPIRED = "CertificateExpired"


class Observer(Protocol):
    """Makes events and metrics of what happens here."""

    def refused(self, identity: PodIdentity | None, refusal: Refusal, message: str) -> None:
        """A peer was refused; without identity its certificate named none."""
        ...

    def turned_away(self, refusal: Refusal) -> None:
        """A peer was refused by what it sent, before or beside what its certificate says."""
        ...

    def flapping(self, node: str, takeovers: int) -> None:
        """Several daemons take the node's session from each other."""
        ...

    def sent(self, kind: Kind) -> None:
        """A daemon was sent an update."""
        ...

    def ahead(self, node: str, uid: str, generation: int) -> None:
        """A daemon has journaled a newer generation than is persisted: etcd was restored."""
        ...
