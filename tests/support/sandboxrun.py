"""The sandbox as a user starts it, its output in a file."""

import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.processes import wait_until

SECONDS = 240.0


@dataclass(slots=True)
class Run:
    """One run, whose temporary directory is its own: by that its processes are known."""

    popen: "subprocess.Popen[bytes]"
    output: Path
    scratch: Path

    def said(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str) -> None:
        def there() -> bool:
            assert self.popen.poll() is None or text in self.said(), self.said()
            return text in self.said()

        wait_until(there, seconds=SECONDS, what=f"{text!r} in the sandbox's output")

    def pids(self) -> list[int]:
        """Return the processes that the sandbox has started, itself among them."""
        return [pid for pid in pids() if str(self.scratch) in environment(pid)]

    def process(self, word: str) -> int:
        """Return the process whose command line has this word, and that the sandbox started."""
        found = [pid for pid in self.pids() if word in command(pid)]
        assert found, word
        return found[0]

    def ended(self, *, seconds: float = SECONDS) -> int:
        return self.popen.wait(timeout=seconds)

    def directories(self) -> list[Path]:
        """Return what it has left, but for kept logs."""
        return [each for each in self.scratch.iterdir() if "-logs-" not in each.name]


def pids() -> list[int]:
    return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()]


def environment(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    return ""


def command(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    return []
