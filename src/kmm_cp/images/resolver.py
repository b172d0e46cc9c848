"""Which digest an image's tag stands for now."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kmm_common.desired import RegistryTLS
from kmm_common.oci.access import Access
from kmm_common.oci.cancellation import Cancellation, run_in_thread
from kmm_common.oci.credentials import RegistryCredential, credential_for
from kmm_common.oci.digest import digest_of
from kmm_common.oci.errors import UnreachableError
from kmm_common.oci.manifest import parse_manifest
from kmm_common.oci.reference import ImageReference, parse_reference
from kmm_common.oci.registry import connect
from kmm_common.oci.transport import Timeouts

_TIMEOUTS = Timeouts(connect=5.0, read=10.0)


class DigestResolver:
    """Asks registries for the manifests of tags."""

    def __init__(self, *, ca_file: Path | None = None, deadline: float = 20.0) -> None:
        """`deadline`: seconds for one look-up, authentication included."""
        self._ca_file = ca_file
        self._deadline = deadline

    async def resolve(
        self, image: str, *, tls: RegistryTLS, credentials: Sequence[RegistryCredential] = ()
    ) -> str:
        """Return the digest of the index or manifest an image stands for.

        An image that names its digest stands for that, and nobody is asked. Otherwise the digest
        is computed from the manifest's own bytes. Raises InvalidReferenceError, NotFoundError,
        UnauthorizedError, UnreachableError, DigestMismatchError or InvalidImageError.
        """
        reference = parse_reference(image)
        if reference.digest:
            return reference.digest
        access = Access(
            tls=tls,
            credential=credential_for(credentials, reference),
            timeouts=_TIMEOUTS,
            ca_file=self._ca_file,
        )
        try:
            return await run_in_thread(
                partial(_look_up, reference, access),
                name=f"resolve {reference}",
                deadline=self._deadline,
            )
        except TimeoutError as error:
            raise UnreachableError(
                f"the registry takes more than {self._deadline:g} s to answer"
            ) from error


def _look_up(reference: ImageReference, access: Access, cancellation: Cancellation) -> str:
    with connect(reference, access, cancellation) as client:
        content = client.manifest(reference)
    # A login page of a proxy has a digest too.
    parse_manifest(content)
    return digest_of(content)
