"""A registry whose certificate is of an authority that only its owner knows."""

import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.pki import Authority, Identity
from support.badregistry import BadRegistry

NAME = "registry.example"
"""No resolver knows it; a proxy may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateRegistry:
    """One that is running; its certificate names its address and `NAME`."""

    registry: BadRegistry
    authority: bytes
    """PEM."""

    def ca_file(self, directory: Path) -> Path:
        """Write the authority's certificate; return where."""
        path = directory / "registry-ca.pem"
        path.write_bytes(self.authority)
        return path


@contextlib.asynccontextmanager
async def running_private_registry(directory: Path) -> AsyncIterator[PrivateRegistry]:
    """Serve until the body ends."""
    authority = Authority("registries")
    names = Identity(common_name="registry", hosts=["127.0.0.1", NAME], server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(names).write(directory, "registry"))
    async with BadRegistry().run(context) as registry:
        yield PrivateRegistry(registry=registry, authority=authority.credential.cert_pem)
