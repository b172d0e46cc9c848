"""Makes User-Mode Linux run on processors with a large register state (see native/xstate.c)."""

import hashlib
import os
import shutil
from pathlib import Path

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import run

SOURCE = Path(__file__).parent / "native" / "xstate.c"
FEATURE = "amx_tile"
CPUINFO = Path("/proc/cpuinfo")


def needed(cpuinfo: str) -> bool:
    """Tell whether this processor's register state is larger than the guest's buffer."""
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return FEATURE in flags.split()


def preload(cache: Path) -> dict[str, str]:
    """Return the environment that a guest kernel needs here; builds the library once.

    Raises SandboxError where there is no C compiler.
    """
    if not needed(CPUINFO.read_text()):
        return {}
    return {"LD_PRELOAD": str(_library(cache))}


def _library(cache: Path) -> Path:
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = cache / f"xstate-{digest}.so"
    if not library.exists():
        _build(library)
    return library


def _build(library: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SandboxError("no C compiler: apt-get install gcc libc6-dev", reason="ProgramMissing")
    library.parent.mkdir(parents=True, exist_ok=True)
    partial = library.with_suffix(f".{os.getpid()}")
    run([compiler, "-O2", "-shared", "-fPIC", "-o", str(partial), str(SOURCE)], limit=60)
    partial.replace(library)
