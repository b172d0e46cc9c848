import tempfile
from pathlib import Path

import pytest

from kmm_sandbox.ended import keep_logs


def test_logs_are_kept_by_their_paths_and_links_to_paths_of_a_node_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = tmp_path / "run"
    (directory / "logs").mkdir(parents=True)
    (directory / "logs" / "kmm-cp.log").write_text("said\n")
    (directory / "logs" / "settings.json").write_text("{}")
    (directory / "logs" / "container.log").symlink_to("/var/log/pods/of/a/node/0.log")

    kept = keep_logs(directory)

    assert [path for path in kept.rglob("*") if path.is_file()] == [kept / "logs" / "kmm-cp.log"]
