"""Settings that change while a program runs."""

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from kmm_common.errors import TerminalError
from kmm_common.logs import fields_of
from kmm_common.reload import LOOK_SECONDS, SettingsFile
from kmm_common.settings import RELOADABLE, ProgramSettings, is_reloadable, load_settings
from support.virtualclock import VirtualClock


class Settings(ProgramSettings):
    listen: str = ":1"
    limit: Annotated[int, Field(gt=0), RELOADABLE] = 1


def load(path: Path) -> Settings:
    return load_settings(Settings, path, prefix="X_", environment={})


class World:
    """A settings file, mounted as kubelet does it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "settings.yaml"
        self.path.symlink_to("..data/settings.yaml")
        self.versions = 0
        self.heard: list[Settings] = []
        self.mount("limit: 1")
        self.file = SettingsFile(self.path, load, clock=VirtualClock())
        self.file.on_change(self.heard.append)

    def mount(self, text: str) -> None:
        """Swap the directory behind ..data."""
        self.versions += 1
        version = self.directory / f"..{self.versions}"
        version.mkdir()
        (version / "settings.yaml").write_text(text)
        link = self.directory / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(self.directory / "..data")

    def look(self) -> Settings:
        try:
            self.file.take(self.path.read_bytes())
        except FileNotFoundError:
            self.file.take(None)
        return self.file.current


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    return [(record.getMessage(), fields_of(record)) for record in caplog.records]


def test_what_can_be_taken_at_once_is_and_the_rest_is_named(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world.mount("{limit: 2, listen: ':2'}")
    assert (world.look().limit, world.look().listen) == (2, ":1")
    assert [settings.limit for settings in world.heard] == [2]
    assert logged(caplog) == [
        ("settings read anew", {"changed": {"limit": 2}}),
        ("settings wait for a restart", {"settings": ["listen"]}),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        *("limit: 0", "limt: 2", "limit: 2\nlimit: 3", "["),
        pytest.param("[" * 10_000, id="deep"),
        pytest.param(None, id="gone"),
    ],
)
def test_a_file_that_has_become_wrong_changes_nothing_and_is_told_of_once(
    world: World, wrong: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    if wrong is None:
        (world.directory / "..data").unlink()
    else:
        world.mount(wrong)
    assert world.look().limit == world.look().limit == 1
    assert (world.file.right, world.heard) == (False, [])
    [(message, fields)] = logged(caplog)
    assert message == "settings not taken, the old ones hold"
    assert str(world.path) in fields["error"]
    world.mount("limit: 3")
    assert (world.look().limit, world.file.right) == (3, True)


def test_a_change_that_changes_no_setting_is_no_change(world: World) -> None:
    world.mount("# the same\nlimit: 1")
    world.look()
    assert (world.heard, world.file.right) == ([], True)


def test_a_file_that_is_written_in_place_within_one_moment_is_seen(world: World) -> None:
    before = world.path.stat()
    world.path.write_text("limit: 7")
    os.utime(world.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert world.look().limit == 7


async def test_the_file_is_looked_at_now_and_then(tmp_path: Path) -> None:
    world = World(tmp_path)
    clock = VirtualClock()
    file = SettingsFile(world.path, load, clock=clock)
    taken = asyncio.Event()
    file.on_change(lambda _: taken.set())
    running = asyncio.create_task(file.run())
    await clock.advance(LOOK_SECONDS - 1)
    world.mount("limit: 2")
    await clock.advance(2)
    await asyncio.wait_for(taken.wait(), 10)
    assert file.current.limit == 2
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def test_a_wrong_file_ends_the_start(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("limit: 0")
    with pytest.raises(TerminalError, match="limit"):
        SettingsFile(path, load, clock=VirtualClock())


def test_a_setting_says_whether_it_needs_a_restart() -> None:
    reloadable = {name for name in Settings.model_fields if is_reloadable(Settings, name)}
    assert reloadable == {"limit", "log_format", "log_level"}
