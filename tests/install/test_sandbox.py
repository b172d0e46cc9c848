"""`make sandbox NODES=kubelet` shows what it says, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from kmm_sandbox.binaries import find_kubectl
from kmm_sandbox.cluster import cgroups
from kmm_sandbox.manifests import Kubectl
from kmm_sandbox.processes import run, wait_until

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1500)]

UP = "The cluster is up."
SECONDS = 900.0
SHARED = ("/etc", "/lib", "/opt", "/usr/libexec", "/var/lib", "/var/log")
"""Where programs of a node make directories by default."""


def test_sandbox_with_kubelets_is_reached_from_outside_and_ends_whole_by_ctrl_c(
    tmp_path: Path,
) -> None:
    scratch, output = tmp_path / "tmp", tmp_path / "output"
    scratch.mkdir()
    # This network namespace may be one in which no other test has been yet.
    run(["ip", "link", "set", "lo", "up"], limit=SECONDS)
    files = names_in(SHARED)
    argv = [sys.executable, "-m", "kmm_sandbox", "up", "--nodes", "kubelet", "--count", "1"]
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}
    with (
        output.open("wb") as file,
        subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment
        ) as popen,
    ):
        try:
            wait_until(
                lambda: popen.poll() is not None or UP in output.read_text(),
                seconds=SECONDS,
                what=UP,
            )
            assert UP in output.read_text(), output.read_text()
            (login,) = re.findall(r"KUBECONFIG=(\S+)", output.read_text())
            kubectl = Kubectl(program=find_kubectl(), kubeconfig=Path(login))
            assert kubectl("get", "nodes", "-o", "name").split() == ["node/host", "node/node1"]
            own = cgroups_of(scratch)
            assert own
            popen.send_signal(signal.SIGINT)
            assert popen.wait(timeout=SECONDS) == 0, output.read_text()
        finally:
            popen.kill()
    assert list(scratch.iterdir()) == []
    assert [each for each in own if each.exists()] == []
    assert names_in(SHARED) == files


def names_in(directories: Sequence[str]) -> set[Path]:
    """Return what is in directories of this machine."""
    return {each for directory in directories for each in Path(directory).iterdir()}


def cgroups_of(scratch: Path) -> set[Path]:
    """Return the cgroups, in every hierarchy, of the sandbox whose files are there.

    Others may run on this machine, and come and go meanwhile.
    """
    places = cgroups.hierarchies(cgroups.MOUNTS.read_text())
    found = {each for place in places for each in place.glob(f"{cgroups.PREFIX}*")}
    return {each for each in found if str(scratch) in environments(each)}


def environments(cgroup: Path) -> str:
    """Return the environments of all processes at the top of a cgroup, as far as they are seen."""
    found = ""
    with suppress(OSError):
        for pid in (cgroup / "cgroup.procs").read_text().split():
            with suppress(OSError):
                found += Path(f"/proc/{pid}/environ").read_text(errors="replace")
    return found
