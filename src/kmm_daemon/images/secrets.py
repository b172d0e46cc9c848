"""The port to who knows the content of pull secrets."""

from collections.abc import Sequence
from typing import Protocol

from kmm_common.desired import ModuleRef
from kmm_common.oci.credentials import RegistryCredential


class PullSecrets(Protocol):
    """Asked at the moment of a pull; nothing of the answer is kept."""

    async def fetch(self, ref: ModuleRef, refresh: bool) -> Sequence[RegistryCredential]:
        """Return the credentials of a Module's pull secret. Raises KmmError.

        `refresh`: the registry has refused those of the last answer.
        """
        ...
