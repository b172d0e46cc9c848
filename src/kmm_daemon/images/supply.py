"""Images from registries: with the right credentials, within deadlines, tried again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.desired import DesiredModule
from kmm_common.errors import KmmError
from kmm_common.oci.access import Access
from kmm_common.oci.cancellation import Cancellation, run_in_thread
from kmm_common.oci.credentials import RegistryCredential, credential_for
from kmm_common.oci.errors import UnauthorizedError, UnreachableError
from kmm_common.oci.reference import ImageReference
from kmm_daemon.images.limits import PullLimits
from kmm_daemon.images.pull import Pull, Workspace
from kmm_daemon.images.room import Hold
from kmm_daemon.images.secrets import PullSecrets

Result = TypeVar("Result")

_CREDENTIALS_SECONDS = 30.0
_RESOLVE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a Module's image comes from, and as whom it is asked for."""

    reference: ImageReference
    module: DesiredModule

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for sources that give the same answer."""
        module = self.module
        asker = (module.namespace, module.pull_secret) if module.pull_secret else None
        return str(self.reference), module.registry_tls, asker


class Supply:
    """Carries out pulls. Every method raises the errors of kmm_common.oci.errors, and OSError."""

    def __init__(
        self,
        pull: Pull,
        *,
        credentials: PullSecrets,
        limits: PullLimits,
        clock: Clock,
        backoff: Backoff,
        ca_file: Path | None,
    ) -> None:
        self._pull = pull
        self._credentials = credentials
        self._limits = limits
        self._clock = clock
        self._backoff = backoff
        self._ca_file = ca_file
        self._gates: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def resolve(self, source: Source) -> str:
        """Return the digest that a reference stands for at its registry."""

        async def ask(access: Access) -> str:
            attempt = partial(self._pull.resolve, source.reference, access)
            return await self._insist(source, attempt, deadline=_RESOLVE_SECONDS)

        return await self._authenticated(source, ask)

    async def bring(self, source: Source, hold: Hold, keep: Iterable[str]) -> None:
        """Bring an image, named by digest, into the store."""

        async def ask(access: Access) -> None:
            workspace = await asyncio.to_thread(Workspace, self._pull.store)
            try:
                attempt = partial(
                    self._pull.attempt, source.reference, access, workspace, hold, frozenset(keep)
                )
                await self._insist(source, attempt, deadline=self._limits.total_seconds)
            finally:
                await asyncio.to_thread(workspace.leave)

        await self._authenticated(source, ask)

    async def _authenticated(
        self, source: Source, ask: Callable[[Access], Awaitable[Result]]
    ) -> Result:
        """Ask with the pull secret's credentials, once more with fresh ones if refused."""
        try:
            return await ask(await self._access(source, refresh=False))
        except UnauthorizedError:
            if not source.module.pull_secret:
                raise
        return await ask(await self._access(source, refresh=True))

    async def _access(self, source: Source, *, refresh: bool) -> Access:
        credentials: Sequence[RegistryCredential] = ()
        if source.module.pull_secret:
            credentials = await self._fetch(source.module, refresh=refresh)
        return Access(
            tls=source.module.registry_tls,
            credential=credential_for(credentials, source.reference),
            timeouts=self._limits.timeouts,
            ca_file=self._ca_file,
        )

    async def _fetch(self, module: DesiredModule, *, refresh: bool) -> Sequence[RegistryCredential]:
        try:
            async with asyncio.timeout(_CREDENTIALS_SECONDS):
                return await self._credentials.fetch(module.ref, refresh)
        except TimeoutError as error:
            raise UnauthorizedError("the control plane does not give its credentials") from error
        except KmmError as error:
            raise UnauthorizedError(f"its credentials cannot be had: {error}") from error

    async def _insist(
        self, source: Source, attempt: Callable[[Cancellation], Result], *, deadline: float
    ) -> Result:
        """Try until the registry answers, a few times, two at a time for each registry."""
        async with self._gate(source.reference.host):
            for number in range(1, self._limits.attempts):
                try:
                    return await self._try(source, attempt, deadline)
                except UnreachableError as error:
                    delay = max(error.retry_after or 0.0, self._backoff.delay(number))
                await self._clock.sleep(delay)
            return await self._try(source, attempt, deadline)

    async def _try(
        self, source: Source, attempt: Callable[[Cancellation], Result], deadline: float
    ) -> Result:
        try:
            return await run_in_thread(attempt, name=f"pull {source.reference}", deadline=deadline)
        except TimeoutError as error:
            raise UnreachableError(f"the registry takes more than {deadline:g} s") from error

    def _gate(self, host: str) -> asyncio.Semaphore:
        gate = self._gates.get(host)
        if gate is None:
            gate = self._gates[host] = asyncio.Semaphore(self._limits.parallel)
        return gate
