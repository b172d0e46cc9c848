import base64
import json
from collections.abc import AsyncIterator

import pytest

from kmm_common.desired import RegistryTLS
from kmm_common.oci.credentials import credentials_of_secret
from kmm_common.oci.errors import (
    DigestMismatchError,
    InvalidImageError,
    InvalidReferenceError,
    NotFoundError,
    UnauthorizedError,
    UnreachableError,
)
from kmm_cp.images.resolver import DigestResolver
from support.badregistry import BadRegistry, other, stalled, status

PLAIN = RegistryTLS(insecure=True)
DIGEST = f"sha256:{'a' * 64}"


@pytest.fixture
async def registry() -> AsyncIterator[BadRegistry]:
    async with BadRegistry().run() as running:
        yield running


@pytest.mark.parametrize("platforms", [(), ("linux/amd64", "linux/arm64")])
async def test_a_tag_is_resolved_to_the_digest_of_the_manifest_or_index(registry, platforms):
    digest = registry.push("team/m", "1", [b"layer"], platforms=platforms)
    image = f"{registry.host}/team/m:1"
    assert await DigestResolver().resolve(image, tls=PLAIN) == digest
    assert registry.count("blobs") == 0


async def test_an_image_that_names_its_digest_is_not_looked_up():
    assert await DigestResolver().resolve(f"r.invalid/m:1@{DIGEST}", tls=PLAIN) == DIGEST


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_a_private_registry_is_asked_with_the_secrets_credentials(registry, auth):
    registry.auth = auth
    digest = registry.push("team/m", "1", [])
    pair = base64.b64encode(b"robot:s3cret").decode()
    secret = {".dockerconfigjson": json.dumps({"auths": {registry.host: {"auth": pair}}}).encode()}
    found = await DigestResolver().resolve(
        f"{registry.host}/team/m:1", tls=PLAIN, credentials=credentials_of_secret("n/s", secret)
    )
    assert found == digest


FAULTS = {
    "gone": (status(404), NotFoundError),
    "broken": (status(500), UnreachableError),
    "busy": (status(429, Retry_After="9"), UnreachableError),
    "private": (status(401), UnauthorizedError),
    "forbidden": (status(403), UnauthorizedError),
    "other bytes than the header says": (
        status(200, Docker_Content_Digest=DIGEST),
        DigestMismatchError,
    ),
    "a login page": (other(b"<html>Please log in</html>"), InvalidImageError),
}


@pytest.mark.parametrize(("fault", "error"), FAULTS.values(), ids=FAULTS)
async def test_a_registry_that_does_not_tell_is_an_error_of_its_kind(registry, fault, error):
    registry.push("team/m", "1", [])
    registry.fail("manifests", fault)
    with pytest.raises(error):
        await DigestResolver().resolve(f"{registry.host}/team/m:1", tls=PLAIN)


async def test_retry_after_is_passed_on(registry):
    registry.fail("manifests", status(503, Retry_After="9"))
    with pytest.raises(UnreachableError) as caught:
        await DigestResolver().resolve(f"{registry.host}/team/m:1", tls=PLAIN)
    assert caught.value.retry_after == 9.0


async def test_a_look_up_ends_at_its_deadline(registry):
    registry.push("team/m", "1", [])
    registry.fail("manifests", stalled())
    with pytest.raises(UnreachableError, match=r"more than 0.2 s"):
        await DigestResolver(deadline=0.2).resolve(f"{registry.host}/team/m:1", tls=PLAIN)


async def test_tls_is_spoken_unless_the_module_says_otherwise(registry):
    registry.push("team/m", "1", [])
    with pytest.raises(UnreachableError):
        await DigestResolver().resolve(f"{registry.host}/team/m:1", tls=RegistryTLS())
    assert registry.seen == []


async def test_what_is_no_image_is_refused():
    with pytest.raises(InvalidReferenceError):
        await DigestResolver().resolve("team/Upper:1", tls=PLAIN)
