import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from kmm_common.api.names import Reason
from kmm_common.desired import ModuleRef
from kmm_common.errors import TransientError
from kmm_common.oci.credentials import RegistryCredential
from kmm_daemon.images.limits import PullLimits
from kmm_daemon.values import StepError
from support.badregistry import (
    BadRegistry,
    endless,
    flipped_bit,
    other,
    redirect,
    stalled,
    status,
    truncated,
)
from support.images import module_for
from support.imagestore import LIMITS, Node
from support.layers import KERNEL, MODULES, file, layer, module, symlink

LAYERS = [layer(file("etc/os-release", b"x" * 5000)), layer(module(content=b"kernel object"))]


@pytest.fixture
async def registry() -> AsyncIterator[BadRegistry]:
    async with BadRegistry().run() as running:
        yield running


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "kmm")


@pytest.fixture
async def images(node):
    store = node.store()
    await store.open()
    return store


@pytest.fixture
def pushed(registry):
    digest = registry.push("team/m", "1", LAYERS)
    return module_for(f"{registry.host}/team/m:1", image_digest=digest)


async def failure(store, wanted) -> StepError:
    with pytest.raises(StepError) as caught:
        await store.prepare(wanted)
    return caught.value


async def test_an_image_is_pulled_and_unpacked(images, registry, pushed, node):
    ready = await images.prepare(pushed)
    assert ready.digest == pushed.image_digest
    assert (ready.root / MODULES / "a.ko").read_bytes() == b"kernel object"
    assert node.leftovers() == []


async def test_no_network_is_needed_once_the_tree_is_there(images, node, registry, pushed):
    first = await images.prepare(pushed)
    registry.seen.clear()
    after_reboot = node.store()
    await after_reboot.open()
    for policy in ("Always", "IfNotPresent", "Never"):
        assert await after_reboot.prepare(replace(pushed, image_pull_policy=policy)) == first
    assert registry.seen == []


async def test_other_paths_of_an_image_that_is_here_need_no_network(images, registry, pushed):
    await images.prepare(pushed)
    registry.seen.clear()
    ready = await images.prepare(
        replace(pushed, modprobe=replace(pushed.modprobe, firmware_path="/etc"))
    )
    assert (ready.root / "etc/os-release").exists()
    assert registry.seen == []


async def test_concurrent_prepares_of_one_digest_share_one_pull(images, registry, pushed):
    others = [
        replace(pushed, name="other"),
        replace(pushed, modprobe=replace(pushed.modprobe, firmware_path="/etc")),
    ]
    ready = await asyncio.gather(*(images.prepare(one) for one in (pushed, *others)))
    assert ready[0] == ready[1] != ready[2]
    assert registry.count("manifests") == 1
    assert registry.count("blobs") == 2


async def test_a_waiter_that_leaves_does_not_stop_the_others(images, registry, pushed):
    reached = asyncio.Event()
    registry.fail("blobs", stalled(reached))
    leaver = asyncio.create_task(images.prepare(pushed))
    stayer = asyncio.create_task(images.prepare(replace(pushed, name="other")))
    await reached.wait()
    leaver.cancel()
    assert (await stayer).digest == pushed.image_digest
    assert leaver.cancelled()


async def test_a_pull_that_nobody_waits_for_ends_and_leaves_nothing(node, registry, pushed):
    patient = node.store(limits=PullLimits())
    await patient.open()
    reached = asyncio.Event()
    registry.fail("blobs", stalled(reached))
    task = asyncio.create_task(patient.prepare(pushed))
    await reached.wait()
    task.cancel()
    await asyncio.wait([task])
    async with asyncio.timeout(20):
        while node.leftovers():
            await asyncio.sleep(0.01)


async def test_an_index_is_pinned_by_its_own_digest(images, registry):
    digest = registry.push("team/m", "1", LAYERS, platforms=("linux/arm64", "linux/amd64"))
    ready = await images.prepare(module_for(f"{registry.host}/team/m:1", image_digest=digest))
    assert ready.digest == digest
    assert (ready.root / MODULES / "a.ko").exists()


async def test_an_index_without_the_nodes_platform_names_those_it_has(images, registry):
    digest = registry.push("team/m", "1", LAYERS, platforms=("linux/arm64", "linux/s390x"))
    wanted = module_for(f"{registry.host}/team/m:1", image_digest=digest)
    error = await failure(images, wanted)
    assert (error.reason, error.retry) == (Reason.IMAGE_INVALID, False)
    assert "linux/amd64, only for: linux/arm64, linux/s390x" in str(error)


async def test_an_image_without_the_kernel_names_those_it_has(images, registry, pushed):
    error = await failure(images, replace(pushed, kernel_version="5.4.0"))
    assert (error.reason, error.retry) == (Reason.IMAGE_WITHOUT_KERNEL, False)
    assert "/opt/lib/modules/5.4.0" in str(error)
    assert KERNEL in str(error)


async def test_a_hostile_image_is_refused_and_leaves_nothing(images, node, registry):
    digest = registry.push("team/m", "1", [layer(module(), symlink(f"{MODULES}/l", "/etc"))])
    wanted = module_for(f"{registry.host}/team/m:1", image_digest=digest)
    error = await failure(images, wanted)
    assert (error.reason, error.retry) == (Reason.IMAGE_INVALID, False)
    assert f"{MODULES}/l" in str(error)
    assert node.leftovers() == []
    assert list((node.directory / "trees").iterdir()) == []


BAD_MANIFESTS = {
    "text": b"not json",
    "list": b"[]",
    "nothing": b'{"schemaVersion": 2}',
    "version 1": b'{"schemaVersion": 1, "layers": []}',
    "too large": b" " * (4 * 1024**2 + 1),
    "weak digest": json.dumps(
        {
            "schemaVersion": 2,
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": "md5:d41d8cd98f00b204e9800998ecf8427e",
                    "size": 1,
                }
            ],
        }
    ).encode(),
}


@pytest.mark.parametrize("content", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
async def test_a_manifest_that_is_none_is_refused(images, registry, content):
    digest = registry.add(content)
    error = await failure(images, module_for(f"{registry.host}/team/m@{digest}"))
    assert (error.reason, error.retry) == (Reason.IMAGE_INVALID, False)
    assert "manifest" in str(error)


# --- what the registry may do wrong -------------------------------------------------------


@pytest.mark.parametrize("code", [500, 502, 503, 429])
async def test_an_overloaded_registry_is_asked_again(images, node, registry, pushed, code):
    registry.fail("manifests", status(code), times=2)
    await images.prepare(pushed)
    assert node.clock.slept == [1.0, 2.0]


async def test_retry_after_is_obeyed(images, node, registry, pushed):
    registry.fail("blobs", status(429, Retry_After="7"))
    await images.prepare(pushed)
    assert node.clock.slept == [7.0]


async def test_a_registry_that_stays_broken_is_reported_and_tried_again_later(
    images, node, registry, pushed
):
    registry.fail("manifests", status(500), times=99)
    error = await failure(images, pushed)
    assert (error.reason, error.retry) == (Reason.IMAGE_PULL_FAILED, True)
    assert "answers 500" in str(error)
    assert pushed.image in str(error)
    assert node.clock.slept == [1.0, 2.0, 4.0]


async def test_a_registry_that_is_not_there_is_reported(images, node):
    wanted = module_for("127.0.0.1:1/team/m:1", image_digest=f"sha256:{'0' * 64}")
    error = await failure(images, wanted)
    assert (error.reason, error.retry) == (Reason.IMAGE_PULL_FAILED, True)
    assert "refused" in str(error)
    assert "object at 0x" not in str(error)


@pytest.mark.parametrize("fault", [truncated(), stalled()], ids=["truncated", "stalled"])
async def test_a_layer_that_breaks_off_is_resumed(images, registry, pushed, fault):
    largest = max(LAYERS, key=len)
    registry.fail(registry.add(largest), fault)
    await images.prepare(pushed)
    assert registry.ranges == [f"bytes={len(largest) // 2}-"]


async def test_a_resumed_layer_is_still_checked_as_a_whole(images, node, registry, pushed):
    digest = registry.add(LAYERS[1])
    registry.fail(digest, truncated())
    registry.fail(digest, status(206, Content_Range=f"bytes {len(LAYERS[1]) // 2}-"))
    registry.fail(digest, flipped_bit())
    error = await failure(images, pushed)
    assert error.reason == Reason.DIGEST_MISMATCH


LIES = {
    "flipped bit": ("blobs", flipped_bit()),
    "other layer": ("blobs", other(b"evil")),
    "longer layer": ("blobs", other(b"evil" * 10_000)),
    "endless layer": ("blobs", endless(b"evil" * 10_000)),
    "other manifest": ("manifests", other(b'{"schemaVersion": 2, "layers": []}')),
}


@pytest.mark.parametrize(("path", "fault"), LIES.values(), ids=LIES)
async def test_other_bytes_than_promised_never_reach_the_store(
    images, node, registry, pushed, path, fault
):
    registry.fail(path, fault, times=99)
    error = await failure(images, pushed)
    assert error.reason == Reason.DIGEST_MISMATCH
    assert "sha256:" in str(error)
    assert not list((node.directory / "trees").iterdir())
    assert not any(p.read_bytes() in (b"evil",) for p in (node.directory / "blobs").rglob("*/*"))
    assert node.leftovers() == []


async def test_the_same_lie_is_not_asked_for_a_fourth_time(images, registry, pushed):
    registry.fail("blobs", flipped_bit(), times=99)
    assert [(await failure(images, pushed)).retry for _ in range(3)] == [True, True, False]


async def test_an_endless_manifest_is_cut_off(images, registry, pushed):
    registry.fail("manifests", endless(b" " * 100_000), times=99)
    error = await failure(images, pushed)
    assert error.reason == Reason.IMAGE_INVALID
    assert "larger than" in str(error)


async def test_a_registry_that_drips_is_cut_off(node, registry, pushed):
    store = node.store(limits=replace(LIMITS, stall_seconds=0.0, stall_bytes=10**9, attempts=1))
    await store.open()
    error = await failure(store, pushed)
    assert error.reason == Reason.IMAGE_PULL_FAILED
    assert "less than 1000000000 bytes" in str(error)


async def test_a_pull_that_takes_too_long_is_cut_off(node, registry, pushed):
    store = node.store(limits=PullLimits(total_seconds=0.2, attempts=1))
    await store.open()
    registry.fail("blobs", stalled())
    error = await failure(store, pushed)
    assert error.reason == Reason.IMAGE_PULL_FAILED
    assert "more than 0.2 s" in str(error)


async def test_a_redirect_to_another_path_is_followed(images, registry, pushed):
    digest = registry.add(LAYERS[1])
    registry.fail(digest, redirect(f"http://{registry.host}/elsewhere/{digest}"))
    await images.prepare(pushed)
    assert registry.count("/elsewhere/") == 1


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/shadow",
        "gopher://x/",
        "http://[fe80::1]/",
    ],
)
async def test_a_redirect_to_what_only_the_node_can_reach_is_not_followed(
    images, registry, pushed, location
):
    registry.fail("blobs", redirect(location), times=99)
    error = await failure(images, pushed)
    assert error.reason == Reason.IMAGE_PULL_FAILED


# --- tags, policies ------------------------------------------------------------------------


async def test_a_tag_is_resolved_on_the_node_when_nobody_else_did(images, registry, pushed):
    ready = await images.prepare(replace(pushed, image_digest=""))
    assert ready.digest == pushed.image_digest


async def test_a_tag_that_is_here_is_not_asked_again_when_the_policy_is_if_not_present(
    images, registry, pushed
):
    loose = replace(pushed, image_digest="")
    first = await images.prepare(loose)
    registry.push("team/m", "1", [layer(module(content=b"newer"))])
    registry.seen.clear()
    assert await images.prepare(loose) == first
    assert registry.seen == []


async def test_a_tag_is_asked_again_when_the_policy_is_always(images, registry, pushed):
    loose = replace(pushed, image_digest="", image_pull_policy="Always")
    await images.prepare(loose)
    newer = registry.push("team/m", "1", [layer(module(content=b"newer"))])
    ready = await images.prepare(loose)
    assert ready.digest == newer
    assert (ready.root / MODULES / "a.ko").read_bytes() == b"newer"


@pytest.mark.parametrize("pinned", [True, False])
async def test_nothing_is_pulled_when_the_policy_is_never(images, registry, pushed, pinned):
    wanted = replace(pushed, image_pull_policy="Never")
    wanted = wanted if pinned else replace(wanted, image_digest="")
    error = await failure(images, wanted)
    assert error.reason == Reason.IMAGE_NOT_FOUND
    assert "Never" in str(error)
    assert registry.seen == []


async def test_a_digest_in_the_image_is_enough(images, registry, pushed):
    wanted = module_for(f"{registry.host}/team/m:gone@{pushed.image_digest}")
    assert (await images.prepare(wanted)).digest == pushed.image_digest


async def test_an_image_that_is_not_there_may_come_later(images, registry):
    error = await failure(images, module_for(f"{registry.host}/team/none:1"))
    assert (error.reason, error.retry) == (Reason.IMAGE_NOT_FOUND, True)
    assert "push it, or correct containerImage" in str(error)


BAD_ENTRIES = {
    "image": {"image": "team/Upper:1"},
    "digest": {"image_digest": "sha256:short"},
    "digests that differ": {
        "image": f"r.example/m@sha256:{'a' * 64}",
        "image_digest": f"sha256:{'b' * 64}",
    },
    "dirName": {"dir_name": "/opt/../etc"},
    "kernel": {"kernel_version": "../6.1"},
}


@pytest.mark.parametrize("fields", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
async def test_an_entry_that_makes_no_sense_is_refused(images, fields):
    error = await failure(images, module_for(**fields))
    assert (error.reason, error.retry) == (Reason.IMAGE_INVALID, False)


# --- credentials ---------------------------------------------------------------------------


def credential(registry: BadRegistry, **fields: str) -> RegistryCredential:
    defaults = {"registry": registry.host, "username": "robot", "password": "s3cret"}
    return RegistryCredential(**{**defaults, **fields})


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_a_private_registry_is_asked_with_the_pull_secret(
    images, node, registry, pushed, auth
):
    registry.auth = auth
    node.secrets.answers = [[credential(registry)]]
    await images.prepare(replace(pushed, pull_secret="pull"))
    assert node.secrets.asked == [(ModuleRef("team", "mod"), False)]


async def test_an_identity_token_is_exchanged(images, node, registry, pushed):
    registry.auth, registry.refresh_token = "bearer", "r3fresh"
    node.secrets.answers = [
        [credential(registry, username="", password="", identity_token="r3fresh")]
    ]
    await images.prepare(replace(pushed, pull_secret="pull"))


async def test_a_token_that_expires_during_a_pull_is_renewed(images, node, registry, pushed):
    registry.auth, registry.uses_per_token = "bearer", 1
    node.secrets.answers = [[credential(registry)]]
    await images.prepare(replace(pushed, pull_secret="pull"))
    assert registry.count("/token") == 3


async def test_secrets_are_not_asked_for_when_the_module_has_none(images, node, pushed):
    await images.prepare(pushed)
    assert node.secrets.asked == []


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_a_rotated_secret_is_fetched_anew_after_a_refusal(
    images, node, registry, pushed, auth
):
    registry.auth = auth
    stale = credential(registry, password="stale")
    node.secrets.answers = [[stale], [credential(registry)]]
    await images.prepare(replace(pushed, pull_secret="pull"))
    assert [refresh for _, refresh in node.secrets.asked] == [False, True]


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_wrong_credentials_are_refused_and_never_shown(
    images, node, registry, pushed, auth, caplog
):
    registry.auth = auth
    node.secrets.answers = [[credential(registry, password="hunter2")]]
    error = await failure(images, replace(pushed, pull_secret="pull"))
    assert (error.reason, error.retry) == (Reason.IMAGE_UNAUTHORIZED, True)
    assert "Secret team/pull" in str(error)
    assert len(node.secrets.asked) == 2
    shown = caplog.text + repr(error) + repr(error.__cause__) + repr(error.failure)
    assert "hunter2" not in shown
    assert b"hunter2".hex() not in shown
    assert b"hunter2" not in b"".join(
        path.read_bytes() for path in node.directory.rglob("*") if path.is_file()
    )


async def test_a_private_registry_without_a_secret_names_the_remedy(images, registry, pushed):
    registry.auth = "basic"
    error = await failure(images, pushed)
    assert error.reason == Reason.IMAGE_UNAUTHORIZED
    assert "imageRepoSecret" in str(error)


async def test_a_control_plane_that_gives_no_credentials_is_named(images, node, pushed):
    node.secrets.answers = [TransientError("this replica cannot tell yet")]
    error = await failure(images, replace(pushed, pull_secret="pull"))
    assert (error.reason, error.retry) == (Reason.IMAGE_UNAUTHORIZED, True)
    assert "this replica cannot tell yet" in str(error)


@pytest.mark.parametrize("answer", [b"[]", b"{}", b"nonsense", b'{"token": 5}'])
async def test_a_token_server_that_answers_nonsense_is_a_failure_like_others(
    images, node, registry, pushed, answer
):
    registry.auth = "bearer"
    registry.fail("/token", other(answer), times=99)
    node.secrets.answers = [[credential(registry)]]
    error = await failure(images, replace(pushed, pull_secret="pull"))
    assert error.reason in (Reason.IMAGE_UNAUTHORIZED, Reason.IMAGE_PULL_FAILED)


async def test_credentials_are_not_sent_to_a_metadata_address(images, node, registry, pushed):
    registry.auth, registry.realm = "bearer", "http://169.254.169.254/token"
    node.secrets.answers = [[credential(registry)]]
    error = await failure(images, replace(pushed, pull_secret="pull"))
    assert error.reason == Reason.IMAGE_UNAUTHORIZED
    assert "metadata" in str(error)
