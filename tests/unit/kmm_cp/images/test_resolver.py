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
from support.connectproxy import ConnectProxy
from support.privateregistry import NAME, PrivateRegistry, running_private_registry

PLAIN = RegistryTLS(insecure=True)
DIGEST = f"sha256:{'a' * 64}"


@pytest.fixture
async def registry() -> AsyncIterator[BadRegistry]:
    async with BadRegistry().run() as running:
        yield running


@pytest.fixture
async def private(tmp_path) -> AsyncIterator[PrivateRegistry]:
    async with running_private_registry(tmp_path) as running:
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


async def test_a_registry_of_an_authority_that_is_known_is_believed(private, tmp_path):
    digest = private.registry.push("team/m", "1", [])
    resolver = DigestResolver(ca_file=private.ca_file(tmp_path))
    found = await resolver.resolve(f"{private.registry.host}/team/m:1", tls=RegistryTLS())
    assert found == digest


async def test_authorities_are_read_anew_at_every_look_up(private, tmp_path):
    digest = private.registry.push("team/m", "1", [])
    image, ca_file = f"{private.registry.host}/team/m:1", tmp_path / "registry-ca.pem"
    resolver = DigestResolver(ca_file=ca_file)
    for content in (None, b"", b"no certificate"):
        if content is not None:
            ca_file.write_bytes(content)
        with pytest.raises(UnreachableError, match=r"registry_ca: .*/registry-ca\.pem"):
            await resolver.resolve(image, tls=RegistryTLS())
    private.ca_file(tmp_path)
    assert await resolver.resolve(image, tls=RegistryTLS()) == digest


async def test_authorities_of_no_use_are_no_matter_where_no_certificate_is_checked(
    private, registry, tmp_path
):
    resolver = DigestResolver(ca_file=tmp_path / "missing.pem")
    careless = RegistryTLS(insecure_skip_tls_verify=True)
    for reached, tls in ((registry, PLAIN), (private.registry, careless)):
        digest = reached.push("team/m", "1", [])
        assert await resolver.resolve(f"{reached.host}/team/m:1", tls=tls) == digest


async def test_a_registry_is_asked_through_the_proxy_of_the_environment(
    private, tmp_path, monkeypatch
):
    digest = private.registry.push("team/m", "1", [])
    resolver = DigestResolver(ca_file=private.ca_file(tmp_path))
    async with ConnectProxy(target_port=private.registry.port).run() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        assert await resolver.resolve(f"{NAME}/team/m:1", tls=RegistryTLS()) == digest
        assert proxy.asked == [f"{NAME}:443"]
        here = f"{private.registry.host}/team/m:1"
        assert await resolver.resolve(here, tls=RegistryTLS()) == digest
        assert len(proxy.asked) == 1


async def test_a_registry_without_tls_is_asked_through_its_own_proxy(registry, monkeypatch):
    digest = registry.push("team/m", "1", [])
    # It takes what a proxy is sent for plain HTTP: the whole URL in place of the path.
    monkeypatch.setenv("HTTP_PROXY", f"http://{registry.host}")
    assert await DigestResolver().resolve(f"{NAME}/team/m:1", tls=PLAIN) == digest
