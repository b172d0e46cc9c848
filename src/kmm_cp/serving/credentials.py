"""Answers daemons' questions for registry credentials; keeps them in memory, for seconds only."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from kmm_common.clock import Clock
from kmm_common.desired import DesiredModule, ModuleRef
from kmm_common.errors import TerminalError, TransientError
from kmm_common.oci.credentials import RegistryCredential, credentials_of_secret
from kmm_cp.serving.ports import Secrets, States
from kmm_cp.serving.values import Target

SHARED_SECONDS = 10.0
"""How long one read of a Secret serves every node that asks."""
REFRESH_SECONDS = 1.0
"""How long it serves those who say that the registry refused what they got."""
KEPT_SECONDS = SHARED_SECONDS + 1.0
READ_SECONDS = 10.0


class CredentialsRefusedError(TerminalError):
    """The node's desired state does not refer to such a secret."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="CredentialsRefused")


class SecretMissingError(TerminalError):
    """There is no such Secret."""

    def __init__(self, namespace: str, name: str) -> None:
        message = f"Secret {namespace}/{name} does not exist; create it or correct imageRepoSecret"
        super().__init__(message, reason="SecretNotFound")


def private_module(
    target: Target | None, ref: ModuleRef, *, uid: str, generation: int
) -> DesiredModule:
    """Return what is desired of a Module whose pull secret a node may have.

    TransientError while the cache may be behind what the daemon has; CredentialsRefusedError.
    """
    if target is None or target.uid != uid or target.generation < generation:
        raise TransientError("this replica does not know that desired state yet; try again")
    module = target.by_ref().get(ref)
    if module is None or not module.pull_secret:
        raise CredentialsRefusedError(f"no pull secret of Module {ref} is meant for this node")
    return module


@dataclass(slots=True, eq=False)
class _Entry:
    """One Secret: who reads it holds the lock, the others wait for what is read."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    read_at: float = float("-inf")
    credentials: Sequence[RegistryCredential] = field(default=(), repr=False)


class PullCredentials:
    """One GET for each Secret in ten seconds, whoever asks, and one for each retry asked for."""

    def __init__(self, *, states: States, secrets: Secrets, clock: Clock) -> None:
        self._states = states
        self._secrets = secrets
        self._clock = clock
        self._entries: dict[tuple[str, str, str], _Entry] = {}

    async def answer(
        self, node: str, ref: ModuleRef, *, uid: str, generation: int, refresh: bool
    ) -> Sequence[RegistryCredential]:
        """Return the credentials of a Module's pull secret, for one of its nodes only."""
        target = self._states.cached(node)
        module = private_module(target, ref, uid=uid, generation=generation)
        self._forget()
        # A retry that is asked for is for what the Secret is from then on.
        key = (ref.namespace, module.pull_secret, module.retry)
        entry = self._entries.setdefault(key, _Entry())
        # Asked before this moment is as good as asked now for those who waited for the lock.
        newest = self._clock.monotonic() - (REFRESH_SECONDS if refresh else SHARED_SECONDS)
        async with entry.lock:
            if entry.read_at <= newest:
                entry.credentials = await self._read(ref.namespace, module.pull_secret)
                entry.read_at = self._clock.monotonic()
                # Nobody may ever ask again.
                asyncio.get_running_loop().call_later(KEPT_SECONDS, self._forget)
            return entry.credentials

    async def _read(self, namespace: str, name: str) -> Sequence[RegistryCredential]:
        try:
            async with asyncio.timeout(READ_SECONDS):
                data = await self._secrets.read(namespace, name)
        except TimeoutError as error:
            message = f"the API server did not return Secret {namespace}/{name} in time"
            raise TransientError(message) from error
        if data is None:
            raise SecretMissingError(namespace, name)
        return credentials_of_secret(f"{namespace}/{name}", data)

    def _forget(self) -> None:
        old = self._clock.monotonic() - SHARED_SECONDS
        for key, entry in list(self._entries.items()):
            if entry.read_at <= old and not entry.lock.locked():
                del self._entries[key]
