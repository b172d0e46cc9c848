"""One error as a real kernel shows it, and the file that keeps it."""

import difflib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from kmm_daemon.kernel import kmsg
from kmm_daemon.kernel.classify import Attempt, load_failure, unload_failure
from kmm_daemon.kernel.kmsg import Record
from kmm_daemon.kernel.runner import Completed
from kmm_daemon.values import KernelModule, StepError

COLLECTED = Path(__file__).parents[1] / "unit/kmm_daemon/kernel/collected"
REMEDY = "make collect-errors"
_ADDRESS = re.compile(r"\b0x[0-9a-f]+\b")
_PROCESS = re.compile(r"\bprocess \d+\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was asked for, and all that modprobe or rmmod and the kernel said."""

    about: str
    """How the error was provoked, for people."""
    kernel: str
    """uname -r."""
    name: str
    """kernel_name of what was to be loaded or unloaded."""
    names: tuple[str, ...]
    """kernel_names whose lines in the kernel log count."""
    unload: bool = False
    parameters: tuple[str, ...] = ()
    command: tuple[str, ...]
    exit_code: int | None
    signal: int | None
    stderr: str
    kernel_log: tuple[Record, ...]
    """All of that moment."""
    row: KernelModule | None
    """The module in /proc/modules afterwards."""
    users: tuple[str, ...] = ()
    """Who has it open then, as the daemon finds out."""
    modules_disabled: bool = False

    def explained(self) -> StepError:
        """Return what the daemon says of it."""
        if self.unload:
            return unload_failure(self.attempt(), self.row, self.users)
        return load_failure(self.attempt())

    def attempt(self) -> Attempt:
        """Return what the daemon's classifier would have been given."""
        return Attempt(
            name=self.name,
            names=self.names,
            completed=Completed(exit_code=self.exit_code, signal=self.signal, stderr=self.stderr),
            kernel_log=kmsg.about(self.kernel_log, self.names),
            kernel=self.kernel,
            parameters=self.parameters,
            modules_disabled=self.modules_disabled,
        )


_FORMAT: TypeAdapter[Collected] = TypeAdapter(Collected)


def encode(error: Collected) -> str:
    """Return the text of a file, without what is different every time."""
    text = json.dumps(asdict(error), indent=2)
    return _PROCESS.sub("process 7", _ADDRESS.sub("0x0", text)) + "\n"


def decode(text: str) -> Collected:
    """Return what a file says."""
    return _FORMAT.validate_json(text)


def read_all(directory: Path = COLLECTED) -> dict[str, Collected]:
    """Return every error that was collected, by the name of its file."""
    return {path.stem: decode(path.read_text()) for path in sorted(directory.glob("*.json"))}


def write_all(errors: dict[str, Collected], directory: Path) -> None:
    """Replace the files of a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.json"):
        old.unlink()
    for name, error in errors.items():
        (directory / f"{name}.json").write_text(encode(error))


def difference(kept: Path, new: Path) -> str:
    """Return how the files of two directories differ, as diff -u says it; empty if not at all."""
    names = sorted({path.name for each in (kept, new) for path in each.glob("*.json")})
    return "".join(_difference(kept / name, new / name) for name in names)


def _difference(kept: Path, new: Path) -> str:
    was, now = (path.read_text().splitlines(True) if path.exists() else [] for path in (kept, new))
    labels = (f"kept/{kept.name}", f"collected now/{new.name}")
    return "".join(difflib.unified_diff(was, now, *labels))
