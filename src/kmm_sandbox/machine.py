"""What this machine must have: rights, devices, Debian packages."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import run
from kmm_sandbox.progress import Progress

TUN = Path("/dev/net/tun")
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


def unavailable(packages: Mapping[str, str]) -> str:
    """Return which packages are missing where they cannot be installed; else empty."""
    wanted = _wanted(packages)
    if not wanted or shutil.which("apt-get") is not None:
        return ""
    return f"install {', '.join(wanted)}: this is no Debian with apt-get"


def obstacle() -> str:
    """Return what keeps nodes from running here, with the remedy; empty if nothing does."""
    if os.geteuid() != 0:
        return "nodes need root for their network namespace: run it as root"
    if not TUN.exists():
        return f"nodes need {TUN}: load the tun module, or give the container that device"
    return ""


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
