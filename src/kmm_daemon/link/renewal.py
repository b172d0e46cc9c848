"""When the daemon gets itself a certificate, where there is no cert-manager to bring one."""

import asyncio
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from kmm_common import certificate
from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.errors import KmmError
from kmm_common.logs import log
from kmm_common.tls import TlsFiles, TlsFilesError
from kmm_daemon.link.ports import Told

logger = logging.getLogger(__name__)

TRUSTED = "enrolled-under.crt"
"""Beside the certificate: the content of tls.ca when it was issued."""
LOOK_SECONDS = 30.0
SHARE, JITTER = 2 / 3, 0.05
"""Of its life a certificate is renewed at two thirds, give or take."""
SPREAD_SECONDS = 300.0
"""Over which daemons enrol anew when other authorities are trusted."""
PROGRAM = (sys.executable, "-P", "-m", "kmm_daemon.link.enrol")

Run = Callable[[Sequence[str]], Awaitable[str]]
"""Runs a program to its end; returns what went wrong, nothing if nothing did."""


class Observer(Protocol):
    """Is told of every attempt."""

    def enrolled(self, *, ok: bool) -> None:
        """Count an attempt."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolling:
    """Where the daemon enrols, and with what."""

    server: str
    """host:port of the control plane's enrolment.listen."""
    server_name: str
    token: Path
    files: TlsFiles
    """`cert` and `key` are written, in one directory; `ca` is only read."""

    @property
    def argv(self) -> tuple[str, ...]:
        """The program that does it."""
        named = {
            "server": self.server,
            "server-name": self.server_name,
            "token": self.token,
            "ca": self.files.ca,
            "cert": self.files.cert,
            "key": self.files.key,
        }
        return (*PROGRAM, *(f"--{name}={value}" for name, value in named.items()))


def renew_at(valid: tuple[datetime, datetime], share: float) -> datetime:
    """Return when a certificate that is valid from and until then is to be renewed."""
    begins, ends = valid
    return begins + (ends - begins) * share


class Renewal:
    """Keeps a certificate that is good; whoever needs the first one waits for `enrolled`."""

    def __init__(
        self,
        enrolling: Enrolling,
        *,
        run: Run,
        told: Told,
        observer: Observer,
        clock: Clock,
        backoff: Backoff | None = None,
        spread: float = SPREAD_SECONDS,
    ) -> None:
        self._enrolling = enrolling
        self._run = run
        self._told = told
        self._observer = observer
        self._clock = clock
        # Full jitter: all daemons of a new cluster begin at once.
        self._backoff = backoff or Backoff(4.0, 300.0, 1.0)
        self._spread = spread
        self._random = random.SystemRandom()
        self._valid: tuple[datetime, datetime] | None = None
        self._share = SHARE
        self._changed_by: float | None = None
        self._problem = ""
        self.enrolled = asyncio.Event()

    async def run(self) -> None:
        """Enrol whenever it is due, until cancelled."""
        attempt = 0
        while True:
            left = self._left()
            if left > 0:
                self.enrolled.set()
                attempt = 0
                await self._clock.sleep(min(left, LOOK_SECONDS))
                continue
            attempt += 1
            self._note(await self._attempt())
            # Also after a success: by a clock that is wrong, the next one is due at once.
            if self._left() <= 0:
                await self._clock.sleep(self._backoff.delay(attempt))

    def _left(self) -> float:
        """Return how many seconds the certificate is left as it is; 0 or less if none is there."""
        try:
            valid = certificate.validity(self._enrolling.files.cert)
        except TlsFilesError:
            return 0.0
        if valid != self._valid:
            self._valid, self._changed_by = valid, None
            self._share = SHARE + self._random.uniform(-JITTER, JITTER)
        now = self._clock.now()
        if now >= valid[1]:
            return 0.0
        left = (renew_at(valid, self._share) - now).total_seconds()
        return min(left, self._left_under_these_authorities())

    def _left_under_these_authorities(self) -> float:
        if not self._authorities_changed():
            return LOOK_SECONDS
        now = self._clock.monotonic()
        if self._changed_by is None:
            self._changed_by = now + self._random.uniform(0.0, self._spread)
        return self._changed_by - now

    def _authorities_changed(self) -> bool:
        files = self._enrolling.files
        try:
            return files.ca.read_bytes() != files.cert.with_name(TRUSTED).read_bytes()
        except OSError:
            # What is trusted is not there to enrol with either.
            return False

    async def _attempt(self) -> str:
        try:
            return await self._run(self._enrolling.argv)
        except KmmError as error:
            return str(error)

    def _note(self, problem: str) -> None:
        self._observer.enrolled(ok=not problem)
        if not problem:
            log(logger, logging.INFO, "enrolled", server=self._enrolling.server)
            self.enrolled.set()
        elif problem != self._problem:
            fields = {"server": self._enrolling.server, "error": problem}
            log(logger, logging.WARNING, "not enrolled", **fields)
        self._problem = problem
        if not self.enrolled.is_set():
            self._told.session(connected=False, problem=f"not enrolled: {problem}")
