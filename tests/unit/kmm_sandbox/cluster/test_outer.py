"""What is started outside of the namespaces ends with the sandbox all the same."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmm_sandbox.cluster import outer
from kmm_sandbox.processes import wait_until

BUILDER = """\
#!/bin/sh
sleep 1000 &
echo $! > "$0.made"
mv "$0.made" "$0.pid"
wait
"""


def runs(pid: int) -> bool:
    """Tell whether a process is there that is more than its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts, also where the shell that runs the tests in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_build_of_images_that_is_interrupted_ends_with_all_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, pid = tmp_path / "builder", tmp_path / "builder.pid"
    builder.write_text(BUILDER)
    builder.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(builder))

    def interrupt() -> None:
        wait_until(pid.exists, seconds=60, what="a build")
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        outer.build_images()
    interrupting.join()
    wait_until(lambda: not runs(int(pid.read_text())), seconds=60, what="end of the build")
