"""The journal on a disk: what cannot be used is set aside, and never ends the daemon."""

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kmm_common.errors import TransientError
from kmm_daemon import journal
from kmm_daemon.journal import ASIDE, NAME, Journal, Memory
from kmm_daemon.values import LoadedRecord
from support.journals import UNUSABLE
from support.node import desired

MEMORY = Memory(
    uid="nms-1",
    generation=7,
    modules=(desired(),),
    left=("nms-0",),
    records=(LoadedRecord(module=desired(), kernel_modules=("m",), builds={"m": "v"}),),
)
BYTES = journal.encode(MEMORY, "boot-1")


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Journal]:
    """The journal of boot-1 over a directory of its own."""
    opened = Journal(tmp_path, "boot-1")
    yield opened
    opened.close()


async def test_what_was_written_is_read_again(written: Journal) -> None:
    await written.write(MEMORY)
    assert await written.read() == MEMORY


async def test_without_a_file_there_is_nothing_to_remember(
    written: Journal, tmp_path: Path
) -> None:
    assert await written.read() == Memory()
    assert list(tmp_path.iterdir()) == []


async def test_record_of_a_daemon_that_knew_no_warnings_is_read(
    written: Journal, tmp_path: Path
) -> None:
    content = json.loads(BYTES)
    del content["body"]["records"][0]["warning"]
    content["sha256"] = journal._checksum(content["body"])
    (tmp_path / NAME).write_text(json.dumps(content))
    assert await written.read() == MEMORY


@pytest.mark.parametrize("damage", UNUSABLE.values(), ids=UNUSABLE)
async def test_unusable_journal_is_set_aside_and_not_replayed(
    written: Journal, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    damaged = damage(BYTES)
    assert damaged != BYTES
    (tmp_path / NAME).write_bytes(damaged)
    assert await written.read() == Memory()
    assert (tmp_path / ASIDE).read_bytes() == damaged
    await written.write(MEMORY)
    assert await written.read() == MEMORY


async def test_directory_in_its_place_is_set_aside(written: Journal, tmp_path: Path) -> None:
    (tmp_path / NAME / "inside").mkdir(parents=True)
    assert await written.read() == Memory()
    assert (tmp_path / ASIDE / "inside").is_dir()
    await written.write(MEMORY)
    assert await written.read() == MEMORY


async def test_what_cannot_even_be_set_aside_does_not_end_the_daemon(
    written: Journal, tmp_path: Path
) -> None:
    (tmp_path / ASIDE / "inside").mkdir(parents=True)
    (tmp_path / NAME).write_bytes(b"damaged")
    assert await written.read() == Memory()


async def test_full_disk_is_told_and_the_older_journal_stays(
    written: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written.write(MEMORY)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(TransientError, match="No space left on device; make room"):
            await written.write(Memory(uid="nms-2"))
    assert await written.read() == MEMORY
