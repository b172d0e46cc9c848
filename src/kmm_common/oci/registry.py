"""The door to oras. A client is for one thread, and for one pull or look-up."""

import contextlib
from collections.abc import Iterator

from oras.provider import Registry

from kmm_common.oci.access import Access, Authenticator
from kmm_common.oci.cancellation import Cancellation
from kmm_common.oci.client import Client
from kmm_common.oci.reference import ImageReference
from kmm_common.oci.transport import Transport, mount


class _Registry(Registry):  # type: ignore[misc]
    # Without oras's retries: they block for 131 s, and know no deadline and no Retry-After.
    do_request = Registry.do_request.__wrapped__


@contextlib.contextmanager
def connect(
    reference: ImageReference, access: Access, cancellation: Cancellation
) -> Iterator[Client]:
    """Open a fresh client: oras's are not thread-safe, and remember who they asked for.

    Raises UnreachableError where `registry_ca` is of no use; requests would not name the file.
    """
    access.require_authorities()
    base = access.base(reference)
    registry = _Registry(insecure=access.tls.insecure, tls_verify=access.verify)
    registry.auth = Authenticator(registry.auth, registry.session, base, access)
    mount(registry.session, Transport(base, access.timeouts, cancellation))
    with registry.session:
        yield Client(sender=registry, base=base, reference=reference)
