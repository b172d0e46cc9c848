"""Files that are replaced all at once."""

import os
import stat
from pathlib import Path

import pytest

from kmm_common.volume import publish


def test_files_are_replaced_all_at_once_and_are_their_owners(tmp_path: Path) -> None:
    place = tmp_path / "tls"
    publish(place, {"cert": b"1", "key": b"one"})
    opened = (place / "cert").open("rb")
    publish(place, {"cert": b"2", "key": b"two"})
    assert ((place / "cert").read_bytes(), (place / "key").read_bytes()) == (b"2", b"two")
    assert opened.read() == b"1"
    opened.close()
    assert (place / "cert").resolve().parent == (place / "key").resolve().parent
    assert stat.S_IMODE((place / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((place / "key").resolve().parent.stat().st_mode) == 0o700
    assert len(list(place.glob("..version.*"))) == 1, "nothing of the old version stays"


def test_plain_files_that_were_there_become_links(tmp_path: Path) -> None:
    (tmp_path / "cert").write_bytes(b"by hand")
    publish(tmp_path, {"cert": b"1"})
    assert (tmp_path / "cert").is_symlink()
    assert (tmp_path / "cert").read_bytes() == b"1"


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "..version.killed").mkdir()
    (tmp_path / "..data_tmp").symlink_to("..version.killed")
    publish(tmp_path, {"cert": b"1"})
    assert (tmp_path / "cert").read_bytes() == b"1"
    assert not (tmp_path / "..version.killed").exists()


def test_files_that_cannot_be_written_leave_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, {"cert": b"1"})

    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        publish(tmp_path, {"cert": b"2"})
    assert (tmp_path / "cert").read_bytes() == b"1"
    assert len(list(tmp_path.glob("..version.*"))) == 1
