"""What nodes with a kubelet need: Kubernetes' programs, compiled on demand, and Debian's packages.

containerd is Debian's, which kubelet 1.36 still accepts: it costs a fresh machine 26 MiB, where
containerd 2 from its Go modules costs two minutes of compiling on two cores.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox import machine
from kmm_sandbox.binaries import (
    GOMODULES,
    KUBERNETES,
    KubernetesRelease,
    cache_directory,
    only_builder,
    version_flags,
)
from kmm_sandbox.gobuild import Build, build
from kmm_sandbox.gotoolchain import find_go
from kmm_sandbox.progress import Progress

NAMES = ("kubelet", "kube-proxy", "kube-scheduler")
CNI_PLUGINS = Path("/usr/lib/cni")
PACKAGES: Mapping[str, str] = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    str(CNI_PLUGINS / "bridge"): "containernetworking-plugins",
    "busybox": "busybox-static",
    "iptables": "iptables",
    "cc": "gcc",
    "nsenter": "util-linux",
}
"""Debian package by the program that is needed of it, besides what the sandbox needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Paths of the programs that the ordinary sandbox does without."""

    kubelet: Path
    proxy: Path
    scheduler: Path


def prepare(progress: Progress) -> None:
    """Install the Debian packages that are missing. Raises SandboxError."""
    machine.install_missing(PACKAGES, progress)


def find_programs(progress: Progress) -> Programs:
    """Return the programs; compile them first, for some minutes, if this machine has none."""
    directory = cache_directory() / f"kubernetes-nodes-{KubernetesRelease.NEWEST.version}"
    if missing(directory):
        with only_builder(directory, progress):
            _fill(directory, progress)
    return Programs(
        kubelet=directory / "kubelet",
        proxy=directory / "kube-proxy",
        scheduler=directory / "kube-scheduler",
    )


def missing(directory: Path) -> list[str]:
    """Return the names of the programs that are not in a directory."""
    return [name for name in NAMES if not os.access(directory / name, os.X_OK)]


def _fill(directory: Path, progress: Progress) -> None:
    """Compile what is missing next to the cache; move each program into it when it is whole."""
    absent = missing(directory)
    if not absent:
        return
    job = Build(
        module=GOMODULES / "kubernetes",
        packages={name: f"{KUBERNETES}/cmd/{name}" for name in absent},
        ldflags=version_flags(KubernetesRelease.NEWEST.version),
    )
    with tempfile.TemporaryDirectory(prefix=".build-", dir=directory) as scratch:
        build(find_go(cache_directory(), progress), job, Path(scratch), progress)
        for name in absent:
            (Path(scratch) / name).replace(directory / name)
