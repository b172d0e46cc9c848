"""Keeps a Secret with the certificate by which Prometheus reads daemons' metrics, renewed in time.

Every replica does it; the version of the Secret decides who is first.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kmm_common.clock import Clock
from kmm_common.errors import KmmError
from kmm_common.logs import log
from kmm_cp.serving.authority import Authorities
from kmm_cp.serving.issue import scraper_certificate
from kmm_cp.serving.keeper import LOOK_SECONDS, AuthorityStore, SupersededError

logger = logging.getLogger(__name__)

CERT, KEY, CA = "tls.crt", "tls.key", "ca.crt"
"""Of the Secret; as cert-manager names them."""


def is_due(data: Mapping[str, bytes], held: Authorities, now: datetime) -> bool:
    """Tell whether another certificate is to replace what a Secret holds, whoever wrote that."""
    try:
        certificate = x509.load_pem_x509_certificate(data.get(CERT, b""))
        key = load_pem_private_key(data.get(KEY, b""), password=None)
        certificate.verify_directly_issued_by(held.current.certificate)
        fits = key.public_key() == certificate.public_key()
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm, InvalidSignature):
        return True
    if not fits or data.get(CA) != held.bundle:
        return True
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= begins + (ends - begins) * 2 / 3


class ScraperKeeper:
    """Looks after the Secret."""

    def __init__(
        self,
        *,
        store: AuthorityStore,
        authorities: Callable[[], Authorities],
        name: str,
        life: timedelta,
        clock: Clock,
    ) -> None:
        """`name` is what the certificate names: a DNS name."""
        self._store = store
        self._authorities = authorities
        self._name = name
        self._life = life
        self._clock = clock

    async def run(self) -> None:
        """Do what is due, until cancelled. Nothing else depends on it."""
        problem = ""
        while True:
            try:
                await self.look()
            except KmmError as error:
                if str(error) != problem:
                    log(logger, logging.ERROR, "scraper's certificate not kept", error=str(error))
                problem = str(error)
            else:
                problem = ""
            await self._clock.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Read the Secret, and write another certificate if it is due. Raises KmmError."""
        held, now = self._authorities(), self._clock.now()
        data, version = await self._store.read()
        if not is_due(data, held, now):
            return
        cert, key = scraper_certificate(held.current, self._name, now=now, life=self._life)
        try:
            await self._store.write({CERT: cert, KEY: key, CA: held.bundle}, version)
        except SupersededError:
            # What another replica has just written is as good as ours.
            return
        log(logger, logging.INFO, "scraper's certificate issued", name=self._name)
