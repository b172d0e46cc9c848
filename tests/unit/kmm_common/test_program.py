"""With which exit code and words a program starts, ends, or refuses to."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kmm_common.errors import TerminalError
from kmm_common.program import run_program, told_to_stop
from kmm_common.reload import SettingsFile
from kmm_common.settings import ProgramSettings, load_settings


class Settings(ProgramSettings):
    """What is common to all programs."""


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Take back what a program does to the process's logs."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def start(run: Callable[[SettingsFile[Settings]], None], error: Exception | None = None) -> int:
    def load(path: Path) -> Settings:
        assert path == Path("file.yaml")
        if error:
            raise error
        return Settings()

    arguments = ["--config", "file.yaml"]
    return run_program("kmm-x", "X", load=load, run=run, arguments=arguments)


def test_program_runs_with_its_settings_to_its_end() -> None:
    ran: list[Settings] = []
    assert start(lambda file: ran.append(file.current)) == 0
    assert ran == [Settings()]


def test_logs_follow_a_change_of_settings(tmp_path: Path) -> None:
    config = tmp_path / "file.yaml"
    config.write_text("log_level: error")
    levels: list[int] = []

    def load(path: Path) -> Settings:
        return load_settings(Settings, path, prefix="X_", environment={})

    def run(file: SettingsFile[Settings]) -> None:
        levels.append(logging.getLogger().level)
        config.write_text("log_level: warning")
        file.take(config.read_bytes())
        levels.append(logging.getLogger().level)

    arguments = ["--config", str(config)]
    assert run_program("kmm-x", "X", load=load, run=run, arguments=arguments) == 0
    assert levels == [logging.ERROR, logging.WARNING]


def test_wrong_settings_are_exit_code_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def never(_: SettingsFile[Settings]) -> None:
        raise AssertionError

    assert start(never, TerminalError("settings file f: listen: must be set")) == 2
    assert capsys.readouterr().err == "kmm-x: settings file f: listen: must be set\n"


@pytest.mark.parametrize(
    "error",
    [TerminalError("no CA"), FileNotFoundError(2, "No such file", "ca.crt")],
)
def test_refusal_to_start_is_exit_code_1_and_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: SettingsFile[Settings]) -> None:
        raise error

    assert start(refuse) == 1
    assert capsys.readouterr().err == f"kmm-x: {error}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [(["--version"], 0, "kmm-x 0."), ([], 2, "--config"), (["--nonsense"], 2, "usage: kmm-x")],
)
def test_command_line_answers_for_itself(
    arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_program(
            "kmm-x", "X", load=lambda _: Settings(), run=lambda _: None, arguments=arguments
        )
    assert ended.value.code == code
    printed = capsys.readouterr()
    assert told in printed.out + printed.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_the_wait(number: signal.Signals) -> None:
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(told_to_stop([]), name="waiting")
        await asyncio.sleep(0)
        assert not waiting.done()
        os.kill(os.getpid(), number)


async def test_task_that_ends_by_itself_ends_the_wait() -> None:
    async with asyncio.TaskGroup() as tasks:
        short = tasks.create_task(asyncio.sleep(0), name="short")
        await told_to_stop([short])
    assert short.done()
