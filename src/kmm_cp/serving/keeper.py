"""Keeps our own authority: in a Secret, its certificates where daemons see them, and our own files.

Every replica does it; the version of the Secret decides who is first.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from kmm_common import volume
from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.errors import KmmError, TerminalError, TransientError
from kmm_common.logs import log
from kmm_common.tls import TlsFiles
from kmm_cp.serving.authority import Authorities, restored, stored, turned
from kmm_cp.serving.issue import Signer, server_certificate

logger = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
TELL_SECONDS = 600.0
"""After which the certificates are written again where daemons see them, whatever is there."""
KEY = "ca.crt"
"""Of what daemons see."""


class SupersededError(TransientError):
    """Another replica has written the Secret since it was read."""


class AuthorityStore(Protocol):
    """The Secret with the authority's keys."""

    async def read(self) -> tuple[Mapping[str, bytes], str]:
        """Return data and version. Raises KmmError, TerminalError if there is no such Secret."""
        ...

    async def write(self, data: Mapping[str, bytes], version: str) -> None:
        """Replace the data of that version. Raises SupersededError, KmmError."""
        ...


class TrustStore(Protocol):
    """What daemons are shown."""

    async def apply(self, name: str, data: Mapping[str, str]) -> None:
        """Create or replace a ConfigMap. Raises KmmError."""
        ...


class AuthorityKeeper:
    """Holds the newest authority that it has seen."""

    def __init__(
        self,
        *,
        store: AuthorityStore,
        trust: TrustStore,
        trust_name: str,
        files: TlsFiles,
        hosts: Sequence[str],
        life: timedelta,
        clock: Clock,
    ) -> None:
        """`files` are written, all in one directory; `hosts` are what our certificate names."""
        self._store = store
        self._trust = trust
        self._trust_name = trust_name
        self._files = files
        self._hosts = hosts
        self._life = life
        self._clock = clock
        self._held: Authorities | None = None
        self._told = b""
        self._tell_at = 0.0
        self._renew_at: datetime | None = None

    def authorities(self) -> Authorities:
        """Return all that are trusted; prepare() comes first."""
        if self._held is None:
            raise TransientError("there is no authority yet; try again")
        return self._held

    def signer(self) -> Signer:
        """Return the authority that signs; prepare() comes first."""
        return self.authorities().current

    async def stand_in(self) -> None:
        """Where files are missing, write some that nobody trusts, until prepare(). TerminalError.

        The key of their authority is kept nowhere: no client has a certificate that it signed.
        """
        if all(path.exists() for path in (self._files.cert, self._files.key, self._files.ca)):
            return
        now = self._clock.now()
        await self._write_files(turned(None, now=now, leaf=self._life), now)

    async def prepare(self) -> None:
        """Have the files there, however long the API server is away. TerminalError."""
        backoff, attempt = Backoff(1.0, 30.0), 0
        while self._held is None:
            try:
                await self.look()
            except TransientError as error:
                attempt += 1
                log(logger, logging.WARNING, "no authority yet", error=str(error))
                await self._clock.sleep(backoff.delay(attempt))

    async def run(self) -> None:
        """Follow the Secret and do what is due, until cancelled."""
        problem = ""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except (KmmError, OSError) as error:
                if str(error) != problem:
                    log(logger, logging.ERROR, "authority not kept", error=str(error))
                problem = str(error)
            else:
                problem = ""

    async def look(self) -> None:
        """Read the Secret; write what is due to it, to what daemons see, and to our files.

        Raises KmmError.
        """
        try:
            await self._look()
        except SupersededError:
            # What another replica has just written is as good as ours.
            await self._look()

    async def _look(self) -> None:
        now = self._clock.now()
        data, version = await self._store.read()
        before = restored(data)
        held = turned(before, now=now, leaf=self._life)
        if held is not before:
            await self._store.write(stored(held), version)
            log(logger, logging.INFO, "authority changed", trusted=held.bundle.count(b"BEGIN"))
        await self._tell(held.bundle)
        if self._due(held, now):
            await self._write_files(held, now)
        self._held = held

    def _due(self, held: Authorities, now: datetime) -> bool:
        known = self._held
        if known is None or self._renew_at is None or now >= self._renew_at:
            return True
        return known.bundle != held.bundle

    async def _tell(self, bundle: bytes) -> None:
        if bundle == self._told and self._clock.monotonic() < self._tell_at:
            return
        await self._trust.apply(self._trust_name, {KEY: bundle.decode()})
        self._told = bundle
        self._tell_at = self._clock.monotonic() + TELL_SECONDS

    async def _write_files(self, held: Authorities, now: datetime) -> None:
        cert, key = server_certificate(held.current, self._hosts, now=now, life=self._life)
        files = self._files
        content = {files.cert.name: cert, files.key.name: key, files.ca.name: held.bundle}
        try:
            await asyncio.to_thread(volume.publish, files.cert.parent, content)
        except OSError as error:
            message = f"tls.cert {files.cert}: {error.strerror}; make its directory writable"
            raise TerminalError(message, reason="CannotWrite") from error
        self._renew_at = now + self._life * 2 / 3
