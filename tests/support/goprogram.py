"""Go programs that only tests need, of modules with pinned versions: built once for a machine."""

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.cache import cache_directory, only_builder
from kmm_sandbox.gobuild import Build, build, pinned_version
from kmm_sandbox.gotoolchain import find_go
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.progress import Progress

ANSWER_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A program and the CustomResourceDefinitions that it is for, if any."""

    program: Path
    crds: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoProgram:
    """What it is built from."""

    name: str
    source: Path
    """Directory with go.mod and go.sum."""
    package: str
    """Of that module, or of one that it requires as a tool."""
    upstream: str
    """The module whose version it has."""
    crds: str = "deploy/crds"
    """Directory of that module whose definitions come along; empty if there are none."""

    def find(self, progress: Progress) -> Built:
        """Return it; build it first, for some minutes, if this machine has none."""
        version = pinned_version(self.upstream, (self.source / "go.mod").read_text())
        directory = cache_directory() / f"{self.name}-{version}-{self._fingerprint()}"
        with only_builder(directory, progress):
            if not (directory / self.name).exists():
                self._fill(directory, progress)
        crds = tuple(sorted((directory / "crds").glob("*.yaml")))
        return Built(program=directory / self.name, crds=crds)

    def answers(self, objects: Iterable[Object], *arguments: str) -> list[Object]:
        """Run it on objects, as JSON lines; return its answers, which are JSON lines too."""
        ran = subprocess.run(
            [self.find(Progress()).program, *arguments],
            input="".join(f"{json.dumps(each)}\n" for each in objects),
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return [json.loads(line) for line in ran.stdout.splitlines()]

    def _fingerprint(self) -> str:
        files = [*sorted((self.source / self.package).glob("*.go")), self.source / "go.mod"]
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]

    def _fill(self, directory: Path, progress: Progress) -> None:
        go = find_go(cache_directory(), progress)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=directory) as scratch:
            job = Build(module=self.source, packages={self.name: self.package})
            build(go, job, Path(scratch), progress)
            if self.crds:
                crds = sources(go, self.source, self.upstream) / self.crds
                shutil.copytree(crds, directory / "crds", dirs_exist_ok=True)
            # Last: whoever finds the program finds everything.
            (Path(scratch) / self.name).replace(directory / self.name)


def sources(go: Path, module: Path, required: str) -> Path:
    """Return the directory of a module that another requires, checked against its go.sum."""
    argv = [str(go), "-C", str(module), "mod", "download", "-json", required]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return Path(json.loads(done.stdout)["Dir"])
