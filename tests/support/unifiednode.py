"""Run on a node with a kernel of its own, which has cgroup v2: a node of the shared-kernel kind.

`make` makes its cgroups, `start` its processes, `stop` ends both; `occupied` asks for cgroups below
one that has processes, before and after they are moved. Each prints one line of JSON.
"""

import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from kmm_sandbox.cluster.cgroups import CONTROLLERS, PROCESSES, Cgroups
from kmm_sandbox.cluster.hostnode import HostNode
from kmm_sandbox.cluster.nodebinaries import NodeBinaries
from kmm_sandbox.cluster.settings import NodeSettings
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import Launcher, run
from kmm_sandbox.repository import REPOSITORY

FREE = REPOSITORY / ".ci/free-top-cgroup"


def described(cgroups: Cgroups) -> str:
    return json.dumps({**asdict(cgroups), "places": [str(place) for place in cgroups.places]})


def read(text: str) -> Cgroups:
    """Return the cgroups of which `make` has printed a line."""
    fields = json.loads(text)
    return Cgroups(**{**fields, "places": [Path(place) for place in fields["places"]]})


def make() -> str:
    return described(Cgroups.make())


def occupied() -> str:
    """Take the cgroup of this very process for a container's top of the hierarchy."""
    own = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().partition("::/")[2].strip()
    busy = own / "busy"
    busy.mkdir()
    (busy / PROCESSES).write_text(str(os.getpid()))
    with tempfile.NamedTemporaryFile("w") as mounts:
        mounts.write(f"cgroup2 {busy} cgroup2 rw 0 0\n")
        mounts.flush()
        try:
            said = Cgroups.make(Path(mounts.name)).name
        except SandboxError as error:
            said = str(error)
        left = [each.name for each in busy.iterdir() if each.is_dir()]
        run([str(FREE), str(busy)], limit=60)
        made = Cgroups.make(Path(mounts.name))
        given = (busy / made.name / CONTROLLERS).read_text()
        made.remove()
    (own / PROCESSES).write_text(str(os.getpid()))
    (busy / "init").rmdir()
    busy.rmdir()
    return json.dumps({"said": said, "left": left, "given": given.split()})


def start(cgroups: str, directory: str, name: str, address: str, kubelet: str) -> str:
    """Start the node of which the settings are in a directory; return its first process's id."""
    place = Path(directory)
    # The host's files take no overlay; the node's disk is known to kubelet as /run/disk, which is
    # hidden below a node's own /run.
    (place / "var").mkdir()
    run(["mount", "-t", "tmpfs", "unified", str(place / "var")], limit=60)
    wrapped = place / "kubelet"
    # The node mounts a /proc of its own, and this kernel tells kubelet no clock speed there.
    (place / "cpuinfo").write_text(Path("/proc/cpuinfo").read_text())
    wrapped.write_text(
        f'#!/bin/sh\nmount --bind {place / "cpuinfo"} /proc/cpuinfo\nexec {kubelet} "$@"\n'
    )
    wrapped.chmod(0o755)
    node = HostNode.start(
        name,
        address,
        settings=NodeSettings(directory=place, number=0),
        cgroups=read(cgroups),
        # Nothing here goes through a Service.
        binaries=NodeBinaries(
            kubelet=wrapped, proxy=Path("/bin/true"), scheduler=Path("/bin/true")
        ),
        launcher=Launcher(logs=place / "logs", leashed=False),
    )
    return json.dumps({"first": node.first.pid})


def stop(cgroups: str, first: str) -> str:
    os.killpg(int(first), signal.SIGKILL)
    read(cgroups).remove()
    return "{}"


if __name__ == "__main__":
    command = {"make": make, "occupied": occupied, "start": start, "stop": stop}[sys.argv[1]]
    print(command(*sys.argv[2:]))  # type: ignore[operator]
