import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.api.names import Reason
from kmm_common.errors import TerminalError
from kmm_common.oci.manifest import Descriptor
from kmm_daemon.images.layers import CHUNK
from kmm_daemon.images.store import Item, Store, TreeKey, evictable
from kmm_daemon.values import StepError
from support.badregistry import BadRegistry
from support.images import module_for
from support.imagestore import Node
from support.layers import MODULES, layer, module

KEY = TreeKey(digest=f"sha256:{'a' * 64}", kernel="6.1", dir_name="/opt", firmware_path="")


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "kmm")
    opened.open()
    return opened


def keep_tree(store: Store, key: TreeKey = KEY, content: str = "x") -> Path:
    work = store.new_directory()
    (work / "root").mkdir()
    (work / "root" / "a").write_text(content)
    (work / "root" / "dangling").symlink_to("nowhere")
    return store.keep_tree(work, key, size=len(content), entries=2)


def test_a_tree_is_found_by_its_key_after_a_restart(store, tmp_path):
    root = keep_tree(store)
    again = Store(tmp_path / "kmm")
    again.open()
    assert again.tree(KEY) == root
    assert again.tree(replace(KEY, kernel="6.2")) is None
    assert (root / "a").read_text() == "x"


def test_the_first_of_two_equal_trees_stays(store):
    assert keep_tree(store, content="first") == keep_tree(store, content="second")
    tree = store.tree(KEY)
    assert tree is not None
    assert (tree / "a").read_text() == "first"


def test_what_a_crash_left_is_swept_at_the_start(store, tmp_path):
    work = store.new_directory()
    (work / "root").mkdir()
    (work / "root" / "half").write_text("x")
    (tmp_path / "kmm" / "tmp" / "file").write_text("x")
    assert store.tree(KEY) is None
    store.open()
    assert list((tmp_path / "kmm" / "tmp").iterdir()) == []


def test_a_tree_without_its_mark_of_completeness_is_not_used(store, tmp_path):
    root = keep_tree(store)
    (root.parent / "meta.json").unlink()
    assert store.tree(KEY) is None


def test_a_damaged_manifest_is_not_used(store):
    store.keep_manifest(b"manifest")
    digest = "sha256:" + next(iter(store.items())).path.name
    assert store.manifest(digest) == b"manifest"
    store.blob(digest).write_bytes(b"manifesT")
    assert store.manifest(digest) is None


def test_a_blob_of_another_size_is_not_used(store):
    store.keep_manifest(b"content")
    digest = "sha256:" + next(iter(store.items())).path.name
    whole = Descriptor(media_type="m", digest=digest, size=7)
    assert store.has(whole)
    assert not store.has(replace(whole, size=8))


@pytest.mark.parametrize("content", [b"", b"{}", b'{"digest": "sha256:x"}', b"\xff"])
def test_a_damaged_note_of_a_tag_says_nothing(store, tmp_path, content):
    store.remember("r.example/m:1", KEY.digest)
    assert store.recall("r.example/m:1") == KEY.digest
    assert store.recall("r.example/m:2") == ""
    next((tmp_path / "kmm" / "tags").iterdir()).write_bytes(content)
    assert store.recall("r.example/m:1") == ""


def test_an_evicted_tree_is_gone_at_once(store):
    root = keep_tree(store)
    (item,) = store.items()
    store.evict(item)
    assert not root.exists()
    assert store.items() == []


items = st.builds(
    Item,
    path=st.integers(0, 30).map(lambda number: Path(f"/{number}")),
    size=st.integers(1, 100),
    used=st.floats(0, 100),
    is_tree=st.booleans(),
)


@given(
    st.lists(items, unique_by=lambda item: item.path),
    st.sets(st.integers(0, 30).map(str)),
    st.integers(-10, 1000),
)
def test_eviction_takes_enough_spares_what_is_kept_and_begins_with_the_oldest_blobs(
    present, keep, surplus
):
    chosen = evictable(present, keep=keep, surplus=surplus)
    assert not {item.path.name for item in chosen} & keep
    freed = sum(item.size for item in chosen)
    left = [item for item in present if item not in chosen and item.path.name not in keep]
    assert freed >= surplus or not left
    assert freed - (chosen[-1].size if chosen else 0) < max(surplus, 1)
    order = [(item.is_tree, item.used) for item in chosen]
    assert order == sorted(order)
    if chosen and left:
        assert order[-1] <= min((item.is_tree, item.used) for item in left)


# --- a store under pressure ---------------------------------------------------------------


@pytest.fixture
async def registry():
    async with BadRegistry().run() as running:
        yield running


def push(registry, name):
    digest = registry.push(f"team/{name}", "1", [layer(module(content=os.urandom(50_000)))])
    return module_for(f"{registry.host}/team/{name}:1", name=name, image_digest=digest)


async def test_the_store_stays_within_its_bound_and_keeps_what_is_desired(tmp_path, registry):
    node = Node(tmp_path / "kmm")
    images = node.store(max_bytes=130_000)
    await images.open()
    wanted, *passing = [push(registry, f"m{number}") for number in range(6)]
    node.desired = [wanted]
    kept = await images.prepare(wanted)
    for one in passing:
        await images.prepare(one)
    assert kept.root.exists()
    sizes = [path.stat().st_size for path in node.directory.rglob("*") if path.is_file()]
    assert sum(sizes) < 180_000


def full_disk(monkeypatch, *, frees_after: int) -> list[int]:
    """Make writing to the image store fail for want of space, a number of times."""
    failures: list[int] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        if len(failures) < frees_after:
            failures.append(handle)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return failures


async def test_unused_images_go_first_when_the_disk_is_full(tmp_path, registry, monkeypatch):
    node = Node(tmp_path / "kmm")
    images = node.store()
    await images.open()
    old, desired, new = [push(registry, name) for name in ("old", "desired", "new")]
    gone = await images.prepare(old)
    node.desired = [desired, new]
    kept = await images.prepare(desired)
    failures = full_disk(monkeypatch, frees_after=1)
    ready = await images.prepare(new)
    assert len(failures) == 1
    assert (ready.root / MODULES / "a.ko").stat().st_size == 50_000
    assert kept.root.exists()
    assert not gone.root.exists()


async def test_a_disk_that_stays_full_is_reported_and_loses_nothing(
    tmp_path, registry, monkeypatch
):
    node = Node(tmp_path / "kmm")
    images = node.store()
    await images.open()
    desired, new = [push(registry, name) for name in ("desired", "new")]
    node.desired = [desired, new]
    kept = await images.prepare(desired)
    with monkeypatch.context() as patch:
        full_disk(patch, frees_after=99)
        with pytest.raises(StepError) as caught:
            await images.prepare(new)
    assert (caught.value.reason, caught.value.retry) == (Reason.DISK_FULL, True)
    assert str(node.directory) in str(caught.value)
    assert kept.root.exists()
    assert node.leftovers() == []
    assert (await images.prepare(new)).digest == new.image_digest


async def test_a_disk_that_fills_while_unpacking_leaves_no_half_tree(
    tmp_path, registry, monkeypatch
):
    node = Node(tmp_path / "kmm")
    images = node.store()
    await images.open()
    wanted = push(registry, "m")

    def content(self, member):
        yield b"x" * CHUNK
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("kmm_daemon.images.layers.Layer.content", content)
    with pytest.raises(StepError) as caught:
        await images.prepare(wanted)
    assert caught.value.reason == Reason.DISK_FULL
    assert node.leftovers() == []
    assert list((node.directory / "trees").iterdir()) == []


async def test_another_failure_of_the_disk_is_told_as_it_is(tmp_path, registry, monkeypatch):
    node = Node(tmp_path / "kmm")
    images = node.store()
    await images.open()

    def fsync(_handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StepError, match="Input/output error") as caught:
        await images.prepare(push(registry, "m"))
    assert caught.value.reason == Reason.IMAGE_PULL_FAILED


async def test_a_store_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "kmm").write_text("a file")
    with pytest.raises(TerminalError, match="make it a writable directory"):
        await Node(tmp_path / "kmm").store().open()
