"""Backups of a cluster's etcd, and what an administrator does with one."""

import shutil
from collections.abc import Callable
from pathlib import Path

from kmm_sandbox.controlplane import ControlPlane, etcd_argv


def back_up(plane: ControlPlane, copy: Path) -> None:
    """Copy etcd's data while it is stopped."""
    _stopped(plane, lambda data: shutil.copytree(data, copy))


def restore(plane: ControlPlane, copy: Path) -> None:
    """Put a backup in the place of etcd's data; the API server is started anew, as it must be."""

    def replace(data: Path) -> None:
        shutil.rmtree(data)
        shutil.copytree(copy, data)

    _stopped(plane, replace)
    plane.restart_apiserver()


def _stopped(plane: ControlPlane, act: Callable[[Path], object]) -> None:
    old = plane.process("etcd")
    old.kill()
    act(plane.layout.directory / "etcd")
    argv = etcd_argv(plane.binaries, plane.layout)
    plane.processes[plane.processes.index(old)] = plane.launcher.start(old.name, argv)
