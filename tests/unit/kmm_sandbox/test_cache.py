"""Where what is compiled is kept, and what is said where that cannot be."""

from pathlib import Path

import pytest

from kmm_sandbox.cache import SETTING, cache_directory, only_builder
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.progress import Progress


def test_cache_is_below_the_home_unless_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(SETTING, raising=False)
    assert cache_directory() == tmp_path / ".cache/kmm"
    monkeypatch.setenv(SETTING, str(tmp_path / "set"))
    assert cache_directory() == tmp_path / "set/kmm"


def test_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(SETTING, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(SandboxError, match=f"home directory. Set HOME or {SETTING}"):
        cache_directory()


def test_cache_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(SandboxError, match=f"file/part: Not a directory: .* or set {SETTING}"),
        only_builder(tmp_path / "file" / "part", Progress(quiet=True)),
    ):
        raise AssertionError("the cache cannot be written")
