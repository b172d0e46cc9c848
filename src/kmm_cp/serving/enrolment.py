"""Gives a daemon its certificate for a token of its pod, where there is no cert-manager.

The API server says whose token it is, the pod's spec says on which node; of the request for a
certificate only the key is taken.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from kmm_common.clock import Clock
from kmm_common.errors import TransientError
from kmm_common.logs import log
from kmm_common.tls import PodIdentity, pod_uri
from kmm_cp.serving.identity import DaemonPods, NodeIdentityError, UnknownPodError, node_of
from kmm_cp.serving.issue import Signer, daemon_certificate, requested_key
from kmm_cp.serving.ports import Observer, PodFacts, Pods, Refusal, Review, Tokens
from kmm_cp.serving.rarely import Rarely
from kmm_cp.serving.token import AUDIENCE, TokenError, claimed

logger = logging.getLogger(__name__)

BURST = 5
REFILL_SECONDS = 60.0
"""A pod enrols five times at once, then once in a minute: a daemon does it twice a day."""
REVIEWS = 8
"""That the API server is asked for at once."""
REVIEW_SECONDS = 10.0
_UNKNOWN = "the token's pod is not known here yet; try again"


class TooManyRequestsError(TransientError):
    """This pod asks too often."""

    def __init__(self, wait: float) -> None:
        message = "this pod enrols too often; the daemon tries again by itself"
        super().__init__(message, reason="TooManyRequests", retry_after=wait)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolRequest:
    """What a daemon sends."""

    token: str
    csr: bytes
    """A PKCS#10 request in PEM."""


def admitted(
    review: Review | None, claim: PodIdentity, facts: PodFacts | None, daemons: DaemonPods
) -> str:
    """Return the node that a token speaks for which claims to be of a pod.

    TokenError, NodeIdentityError, or UnknownPodError where the API server knows more than we do.
    """
    if review is None or AUDIENCE not in review.audiences:
        raise TokenError("the API server does not take it: its pod is gone, or it is no token here")
    account = f"system:serviceaccount:{claim.namespace}:{claim.service_account}"
    if (review.username, review.pod, review.pod_uid) != (account, claim.name, claim.uid):
        raise TokenError("the API server says something else of it than it does itself")
    if facts is not None and facts.uid != claim.uid:
        raise UnknownPodError(_UNKNOWN)
    return node_of(claim, facts, daemons)


class Buckets:
    """How often each pod may still ask; as many as there are daemon pods."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}
        """Monotonic time at which a pod's bucket is full again, by uid."""

    def take(self, uid: str) -> None:
        """Take one. TooManyRequestsError if there is none."""
        now = self._clock.monotonic()
        self._full_at = {one: at for one, at in self._full_at.items() if at > now}
        full_at = max(now, self._full_at.get(uid, now)) + REFILL_SECONDS
        over = full_at - now - BURST * REFILL_SECONDS
        if over > 0:
            raise TooManyRequestsError(over)
        self._full_at[uid] = full_at


class Enrolment:
    """Answers one request after the other; nothing of them is kept."""

    def __init__(
        self,
        *,
        pods: Pods,
        tokens: Tokens,
        daemons: DaemonPods,
        signer: Callable[[], Signer],
        trust_domain: str,
        host: str,
        life: timedelta,
        ready: Callable[[], bool],
        observer: Observer,
        clock: Clock,
    ) -> None:
        """`signer` returns the authority that signs now.

        `host` is the one name under which all daemons serve their metrics. It is in certificates
        also where nobody scrapes: what a daemon gets must not depend on which replica it asks
        while the settings of all are being changed.
        """
        self._pods = pods
        self._tokens = tokens
        self._daemons = daemons
        self._signer = signer
        self._trust_domain = trust_domain
        self._life = life
        self._ready = ready
        self._observer = observer
        self._clock = clock
        self._host = host
        self._buckets = Buckets(clock)
        self._reviewing = asyncio.Semaphore(REVIEWS)
        self._rarely = Rarely(clock)

    async def enrol(self, request: EnrolRequest) -> bytes:
        """Return PEM of a certificate.

        Raises TokenError, RequestError, NodeIdentityError, or TransientError.
        """
        if not self._ready():
            raise TransientError("this replica is not serving now; try again")
        identity, node = await self._identified(request.token)
        # Not before: whoever has no right here is not to reach the parser.
        key = requested_key(request.csr)
        uri = pod_uri(identity, self._trust_domain)
        now = self._clock.now()
        certificate = daemon_certificate(
            self._signer(), key, uri, now=now, life=self._life, host=self._host
        )
        fields = {"node": node, "pod": identity.name, "until": (now + self._life).isoformat()}
        log(logger, logging.INFO, "daemon enrolled", **fields)
        return certificate

    async def _identified(self, token: str) -> tuple[PodIdentity, str]:
        claim = claimed(token, now=self._clock.now().timestamp())
        expected = (self._daemons.namespace, self._daemons.service_account)
        if (claim.namespace, claim.service_account) != expected:
            remedy = "run the daemon under the service account of daemon_service_account"
            raise TokenError("is of no daemon's service account", remedy)
        facts = self._pods.lookup(claim.namespace, claim.name)
        if facts is None or facts.uid != claim.uid:
            raise UnknownPodError(_UNKNOWN)
        self._buckets.take(claim.uid)
        review = await self._reviewed(token)
        facts = self._pods.lookup(claim.namespace, claim.name)
        try:
            return claim, admitted(review, claim, facts, self._daemons)
        except NodeIdentityError as error:
            self._observer.refused(claim, error.refusal, str(error))
            raise

    async def _reviewed(self, token: str) -> Review | None:
        try:
            async with asyncio.timeout(REVIEW_SECONDS), self._reviewing:
                return await self._tokens.review(token)
        except TimeoutError as error:
            raise TransientError("the API server did not review the token in time") from error

    def turned_away(self, peer: str, refusal: Refusal, why: str) -> None:
        """Count a request that was refused; tell of each host and reason once in a while."""
        self._observer.turned_away(refusal)
        if self._rarely((peer.rpartition(":")[0], refusal)):
            fields = {"peer": peer, "reason": refusal, "error": why}
            log(logger, logging.WARNING, "daemon not enrolled", **fields)
