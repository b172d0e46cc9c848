"""The Go that is installed where the machine has none."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from kmm_sandbox import gotoolchain
from kmm_sandbox.progress import Progress


def test_installation_that_is_interrupted_is_not_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(argv: Sequence[str], *, limit: float) -> str:
        if "install" in argv:
            go = Path(argv[0]).with_name("go")
            go.parent.mkdir(parents=True)
            go.touch()
            raise KeyboardInterrupt
        return ""

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(gotoolchain, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gotoolchain.find_go(tmp_path, Progress(quiet=True))
    assert [each.name for each in tmp_path.iterdir()] == [".lock"]
