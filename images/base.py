"""A base of Debian packages for where no registry can be asked: what is installed in it is enough.

It has no sources of packages, so that a build's `apt-get install` installs nothing, or fails.
"""

import hashlib
import tempfile
from pathlib import Path

from kmm_sandbox.processes import run

SUITE = "bookworm"
PACKAGES = ("binutils", "ca-certificates", "kmod", "libseccomp2", "python3.11", "python3-pip")
LIMIT_SECONDS = 1800.0
NOT_NEEDED = ("man", "locale", "info", "lintian")


def base(cache: Path, mirror: str | None, *, fresh: bool) -> Path:
    """Return a tar file of the base, made if there is none or a fresh one is wanted.

    `mirror` is Debian's archive with mmdebstrap's defaults if None. Raises SandboxError.
    """
    argv = _argv(mirror)
    path = cache / f"base-{hashlib.sha256(repr(argv).encode()).hexdigest()[:16]}.tar"
    if fresh or not path.exists():
        with tempfile.TemporaryDirectory(prefix="partial-", dir=cache) as scratch:
            partial = Path(scratch, path.name)
            run([*argv, str(partial), *([mirror] if mirror else [])], limit=LIMIT_SECONDS)
            partial.rename(path)
    return path


def _argv(mirror: str | None) -> list[str]:
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in NOT_NEEDED]
    return [
        *("env", "SOURCE_DATE_EPOCH=0"),
        *("mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--format=tar"),
        f"--include={','.join(PACKAGES)}",
        *excluded,
        # Or every build would ask the mirror again.
        '--customize-hook=rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d',
        SUITE,
    ]
