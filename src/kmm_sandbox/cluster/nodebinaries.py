"""What nodes with a kubelet need: Kubernetes' programs, compiled on demand, and Debian's packages.

containerd is Debian's, which kubelet 1.36 still accepts: it costs a fresh machine 26 MiB, where
containerd 2 from its Go modules costs two minutes of compiling on two cores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox import machine
from kmm_sandbox.binaries import KUBERNETES, KubernetesRelease, version_flags
from kmm_sandbox.gobuild import Build
from kmm_sandbox.goprograms import compiled
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
    "nsenter": "util-linux",
}
"""Debian package by the program that is needed of it, besides what the sandbox needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBinaries:
    """Paths of what runs besides the Binaries of a control plane."""

    kubelet: Path
    proxy: Path
    scheduler: Path


def prepare(progress: Progress) -> None:
    """Install the Debian packages that are missing. Raises SandboxError."""
    machine.install_missing(PACKAGES, progress)


def find_node_binaries(progress: Progress) -> NodeBinaries:
    """Return the programs; compile them first, for some minutes, if this machine has none."""
    version = KubernetesRelease.NEWEST.version

    def jobs(absent: Sequence[str]) -> list[Build]:
        packages = {name: f"{KUBERNETES}/cmd/{name}" for name in absent}
        module = KubernetesRelease.NEWEST.module
        return [Build(module=module, packages=packages, ldflags=version_flags(version))]

    directory = compiled(f"kubernetes-nodes-{version}", NAMES, jobs, progress)
    return NodeBinaries(
        kubelet=directory / "kubelet",
        proxy=directory / "kube-proxy",
        scheduler=directory / "kube-scheduler",
    )
