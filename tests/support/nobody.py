"""A user without rights who runs the sandbox, with a home that goes at the end."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.binaries import ASSETS, KubernetesRelease, find_binaries
from kmm_sandbox.cache import cache_directory
from kmm_sandbox.progress import Progress
from kmm_sandbox.repository import REPOSITORY
from kmm_sandbox.simulated.registry import find_registry
from support.sandboxrun import Run

UID = 65534
RIGHTS_GIVEN_UP = (
    *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all"),
    *("--bounding-set=-all", "--no-new-privs"),
)


@dataclass(frozen=True, slots=True)
class Nobody:
    """Has compiled programs at home already: they are the same for every user."""

    home: Path

    @property
    def scratch(self) -> Path:
        """Where its programs make temporary files."""
        return self.home / "tmp"

    @contextmanager
    def runs(self, *words: str) -> Iterator[Run]:
        """Start the sandbox; it is gone at the end of the block at the latest."""
        output = self.home / f"output-{len(list(self.home.iterdir()))}"
        with output.open("wb") as file:
            popen = subprocess.Popen(
                [*_as_nobody(), _python(), "-m", "kmm_sandbox", *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=self._environment(),
            )
        try:
            yield Run(popen, output, self.scratch)
        finally:
            popen.kill()
            popen.wait()

    def _environment(self) -> dict[str, str]:
        packages = (REPOSITORY / "src", sysconfig.get_path("purelib"))
        return {
            "HOME": str(self.home),
            "TMPDIR": str(self.scratch),
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(map(str, packages)),
            "PYTHONUNBUFFERED": "1",
            ASSETS: str(self.home / "assets"),
        }


@contextmanager
def nobody() -> Iterator[Nobody]:
    """Give a user without rights a home, outside of what only root gets to."""
    home = Path(tempfile.mkdtemp(prefix="kmm-nobody-"))
    try:
        (home / "tmp").mkdir()
        directory = find_binaries(Progress()).etcd.parent
        for name in KubernetesRelease.NEWEST.programs:
            _give(directory / name, home / "assets")
        registry = find_registry(Progress())
        _give(registry, home / ".cache/kmm" / registry.parent.relative_to(cache_directory()))
        if os.geteuid() == 0:
            for path in (home, *(each for each in home.rglob("*") if each.is_dir())):
                os.chown(path, UID, UID)
        yield Nobody(home)
    finally:
        shutil.rmtree(home)


def _give(program: Path, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(program, directory)


def _as_nobody() -> Sequence[str]:
    """Who is not root has no more rights than nobody."""
    return RIGHTS_GIVEN_UP if os.geteuid() == 0 else ()


def _python() -> str:
    """Return a Python of this one's version that nobody can run."""
    name = f"python3.{sys.version_info.minor}"
    found = shutil.which(name, path="/usr/local/bin:/usr/bin")
    for program in filter(None, (sys.executable, found)):
        if os.geteuid() != 0 or _runs(program):
            return program
    raise AssertionError(
        f"neither {sys.executable} nor a {name} in /usr/bin can be run by uid {UID}: "
        "a Python below a directory that others can enter is needed"
    )


def _runs(program: str) -> bool:
    try:
        done = subprocess.run([program, "-c", ""], user=UID, group=UID, extra_groups=(), cwd="/")
    except PermissionError:
        return False
    return done.returncode == 0
