"""Commands for a running node, through the files that its agent watches."""

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import wait_until

LIMIT_SECONDS = 60.0
GRACE_SECONDS = 20.0
"""The guest ends a command at its deadline; the host gives it this much longer to say so."""
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a command in a guest ended."""

    code: int
    stdout: str
    stderr: str

    def check(self) -> str:
        """Return what it printed. Raises SandboxError if it failed."""
        if self.code:
            raise SandboxError(f"exit {self.code}: {self.stderr.strip()}", reason="CommandFailed")
        return self.stdout


def execute(
    directory: Path,
    boot: int,
    *argv: str,
    stdin: str = "",
    seconds: float = LIMIT_SECONDS,
    require_alive: Callable[[], None] = lambda: None,
) -> Answer:
    """Run a command in the guest that uses `directory`, in its given boot. Raises SandboxError.

    It is waited for no longer when `require_alive` raises.
    """
    key = f"{os.getpid()}-{next(_numbers)}"
    answer = directory / "exec" / f"{key}.answer"
    request = {"boot": boot, "argv": argv, "stdin": stdin, "seconds": seconds}
    write_whole(directory / "exec" / f"{key}.request", json.dumps(request))
    limit = seconds + GRACE_SECONDS

    def answered() -> bool:
        if answer.exists():
            return True
        require_alive()
        return False

    wait_until(answered, seconds=limit, what=f"{directory.name}: {' '.join(argv)}")
    fields = json.loads(answer.read_text())
    answer.unlink()
    return Answer(code=fields["code"], stdout=fields["stdout"], stderr=fields["stderr"])


def write_whole(path: Path, text: str) -> None:
    """Replace a file as a whole: a reader in the guest never sees half of it."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text)
    scratch.replace(path)
