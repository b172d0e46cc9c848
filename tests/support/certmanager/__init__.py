"""cert-manager's own controllers against a real API server: built once for a machine."""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.binaries import cache_directory, only_builder, pinned_version
from kmm_sandbox.gobuild import Build, build
from kmm_sandbox.gotoolchain import find_go
from kmm_sandbox.processes import Launcher, Process
from kmm_sandbox.progress import Progress
from support.cluster import Cluster

MODULE = "github.com/cert-manager/cert-manager"
SOURCE = Path(__file__).parent
PROGRAM, CRDS = "cert-manager", "crds"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertManager:
    """A program and the CustomResourceDefinitions that it is for."""

    program: Path
    crds: tuple[Path, ...]


def find_cert_manager(progress: Progress) -> CertManager:
    """Return it; build it first, for some minutes, if this machine has none."""
    directory = cache_directory() / f"cert-manager-{_version()}-{_fingerprint()}"
    with only_builder(directory, progress):
        if not (directory / PROGRAM).exists():
            _fill(directory, progress)
    crds = tuple(sorted((directory / CRDS).glob("*.yaml")))
    return CertManager(program=directory / PROGRAM, crds=crds)


def _version() -> str:
    return pinned_version(MODULE, (SOURCE / "go.mod").read_text())


def _fingerprint() -> str:
    texts = [(SOURCE / name).read_bytes() for name in ("main.go", "go.mod")]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:12]


def _fill(directory: Path, progress: Progress) -> None:
    go = find_go(cache_directory(), progress)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=directory) as scratch:
        build(go, Build(module=SOURCE, packages={PROGRAM: "."}), Path(scratch), progress)
        shutil.copytree(_sources(go) / "deploy/crds", directory / CRDS, dirs_exist_ok=True)
        # Last: whoever finds the program finds everything.
        (Path(scratch) / PROGRAM).replace(directory / PROGRAM)


def _sources(go: Path) -> Path:
    argv = [str(go), "-C", str(SOURCE), "list", "-m", "-f", "{{.Dir}}", MODULE]
    return Path(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip())


@contextmanager
def running_cert_manager(cluster: Cluster, directory: Path) -> Iterator[Process]:
    """Install its definitions and run its controllers until the end of the block."""
    found = find_cert_manager(Progress())
    cluster.kubectl.apply_crds(found.crds)
    cluster.api.ensure("/api/v1/namespaces", {"metadata": {"name": "cert-manager"}})
    argv = [str(found.program), "--kubeconfig", str(cluster.kubeconfig)]
    process = Launcher(logs=directory, leashed=True).start(PROGRAM, argv)
    try:
        yield process
        process.require_alive()
    finally:
        process.kill()
