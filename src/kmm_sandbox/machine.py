"""What this machine must have: rights, devices, Debian packages."""

import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import run
from kmm_sandbox.progress import Progress

TUN = Path("/dev/net/tun")
STATUS = Path("/proc/self/status")
OWN, NEEDED = platform.machine(), "x86_64"
"""Architectures: the machine's, and the one that Debian has user-mode-linux for."""
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
"""Bits by name, capability.h: without them root makes neither namespaces nor taps."""
INSTALL_SECONDS = 900.0

PACKAGES: Mapping[str, str] = {
    "linux.uml": "user-mode-linux",
    "modprobe": "kmod",
    "depmod": "kmod",
    "docker-registry": "docker-registry",
    "ip": "iproute2",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "cc": "gcc",
    "crun": "crun",
}
"""Debian package by the program that is needed of it."""


def prepare(progress: Progress) -> None:
    """Install what is missing, saying so. Raises SandboxError with the remedy."""
    problem = obstacle()
    if problem:
        raise SandboxError(problem, reason="MachineUnfit")
    install_missing(PACKAGES, progress)


def install_missing(packages: Mapping[str, str], progress: Progress) -> None:
    """Install the Debian packages whose programs are not there. Raises SandboxError."""
    problem = unavailable(packages)
    if problem:
        raise SandboxError(problem, reason="MachineUnfit")
    wanted = _wanted(packages)
    if wanted:
        _install(wanted, progress)


def unfit(packages: Mapping[str, str] = PACKAGES) -> str:
    """Return what keeps nodes that need packages from running here; empty if nothing does."""
    return obstacle() or unavailable(packages)


def unavailable(packages: Mapping[str, str]) -> str:
    """Return which packages are missing where they cannot be installed; else empty."""
    wanted = _wanted(packages)
    if not wanted or shutil.which("apt-get") is not None:
        return ""
    return f"install {', '.join(wanted)}: this is no Debian with apt-get"


def obstacle(status: Path = STATUS, tun: Path = TUN, architecture: str = OWN) -> str:
    """Return what keeps nodes from running here, with the remedy; empty if nothing does."""
    if architecture != NEEDED:
        return f"nodes need User-Mode Linux, of {NEEDED} only: this machine is {architecture}"
    if os.geteuid() != 0:
        return "nodes need root for their network namespace: run it as root"
    absent = [name for name, bit in CAPABILITIES.items() if not _effective(status) >> bit & 1]
    if absent:
        return f"nodes need {' and '.join(absent)}: give them, or --privileged, to this container"
    if not tun.exists():
        return f"nodes need {tun}: load the tun module, or give the container that device"
    return ""


def _effective(status: Path) -> int:
    """Return the effective capabilities of a process as bits: /proc/<pid>/status."""
    rows = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(rows["CapEff"], 16)


def _wanted(packages: Mapping[str, str]) -> list[str]:
    return sorted({package for program, package in packages.items() if not _found(program)})


def _found(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def _install(packages: list[str], progress: Progress) -> None:
    with progress.step(f"apt-get install {' '.join(packages)}"):
        environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
        run([*environment, "apt-get", "update", "-q"], limit=INSTALL_SECONDS)
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
        run([*environment, *install], limit=INSTALL_SECONDS)
