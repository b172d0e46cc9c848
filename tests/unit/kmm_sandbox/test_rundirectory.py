"""Directories of earlier runs go, if they are nobody's any more and this user's."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from kmm_sandbox import rundirectory


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def left(scratch: Path, name: str) -> Path:
    directory = scratch / f"{rundirectory.PREFIX}{name}"
    directory.mkdir()
    (directory / rundirectory.LOCK).touch()
    return directory


def test_directory_that_nobody_holds_goes_and_a_held_one_stays(scratch: Path) -> None:
    gone, held = left(scratch, "gone"), left(scratch, "held")
    with (held / rundirectory.LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rundirectory.sweep()
    assert (gone.exists(), held.exists()) == (False, True)


def test_directory_of_another_user_is_not_looked_into(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = left(scratch, "others")
    monkeypatch.setattr(os, "geteuid", lambda: others.stat().st_uid + 1)
    rundirectory.sweep()
    assert others.exists()


def test_directory_that_another_run_removed_before_it_was_held_is_made_anew(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Path] = []

    def flock(lock: object, operation: int) -> None:
        if not lost:
            (made,) = scratch.iterdir()
            lost.append(made)
            shutil.rmtree(made)

    monkeypatch.setattr(fcntl, "flock", flock)
    with rundirectory.held() as directory:
        assert directory.exists()
        assert directory not in lost
    assert list(scratch.iterdir()) == []


def test_directory_that_another_run_is_removing_is_left_to_it(scratch: Path) -> None:
    going = left(scratch, "going")
    (going / rundirectory.LOCK).unlink()
    rundirectory.remove_unless_held(going)
    assert going.exists()
