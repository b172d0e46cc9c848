import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, RegistryTLS
from kmm_daemon.images.limits import PullLimits
from kmm_daemon.values import StepError
from support.badregistry import BadRegistry, redirect, stalled
from support.images import module_for
from support.imagestore import Node
from support.layers import layer, module
from support.privateregistry import PrivateRegistry, running_private_registry


@pytest.fixture
async def private(tmp_path: Path) -> AsyncIterator[PrivateRegistry]:
    async with running_private_registry(tmp_path) as running:
        yield running


@pytest.fixture
def registry(private: PrivateRegistry) -> BadRegistry:
    return private.registry


@pytest.fixture
def ca_file(private: PrivateRegistry, tmp_path: Path) -> Path:
    return private.ca_file(tmp_path)


@pytest.fixture
def wanted(registry: BadRegistry) -> DesiredModule:
    digest = registry.push("team/m", "1", [layer(module())])
    image = f"{registry.host}/team/m:1"
    return module_for(image, image_digest=digest, registry_tls=RegistryTLS())


async def test_a_registry_whose_authority_is_known_is_believed(tmp_path, wanted, ca_file):
    images = Node(tmp_path / "kmm").store(ca_file=ca_file)
    await images.open()
    assert (await images.prepare(wanted)).digest == wanted.image_digest


async def test_a_registry_whose_authority_is_unknown_is_refused(tmp_path, registry, wanted):
    images = Node(tmp_path / "kmm").store()
    await images.open()
    with pytest.raises(StepError, match="registryTLS") as caught:
        await images.prepare(wanted)
    assert caught.value.reason == Reason.IMAGE_PULL_FAILED
    assert "certificate" in str(caught.value)
    assert registry.seen == []


async def test_file_of_authorities_that_is_of_no_use_is_named(tmp_path, registry, wanted):
    images = Node(tmp_path / "kmm").store(ca_file=tmp_path / "missing.pem")
    await images.open()
    with pytest.raises(StepError, match=r"registry_ca: .*/missing\.pem .*No such file") as caught:
        await images.prepare(wanted)
    assert caught.value.reason == Reason.IMAGE_PULL_FAILED
    assert registry.seen == []


async def test_no_certificate_is_checked_when_the_module_says_so(tmp_path, registry):
    digest = registry.push("team/m", "1", [layer(module())])
    careless = RegistryTLS(insecure_skip_tls_verify=True)
    images = Node(tmp_path / "kmm").store()
    await images.open()
    ready = await images.prepare(
        module_for(f"{registry.host}/team/m:1", image_digest=digest, registry_tls=careless)
    )
    assert ready.digest == digest


async def test_a_redirect_from_tls_to_plain_http_is_not_followed(
    tmp_path, registry, wanted, ca_file
):
    registry.fail("blobs", redirect("http://cdn.example/blob"), times=99)
    images = Node(tmp_path / "kmm").store(ca_file=ca_file)
    await images.open()
    with pytest.raises(StepError, match="plain HTTP"):
        await images.prepare(wanted)


async def test_a_pull_over_tls_that_nobody_waits_for_ends(tmp_path, registry, wanted, ca_file):
    node = Node(tmp_path / "kmm")
    images = node.store(ca_file=ca_file, limits=PullLimits())
    await images.open()
    reached = asyncio.Event()
    registry.fail("blobs", stalled(reached))
    task = asyncio.create_task(images.prepare(wanted))
    await reached.wait()
    task.cancel()
    await asyncio.wait([task])
    async with asyncio.timeout(20):
        while node.leftovers():
            await asyncio.sleep(0.01)
