"""A cgroup of one name in every hierarchy, and its end.

Kubelet is told to take those of version 1. Beside them there may be the one of version 2, without
controllers, in which runc makes what it makes in the others.
"""

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import wait_until

MOUNTS = Path("/proc/self/mounts")
PREFIX = "kmm-sandbox-"
NEEDED = frozenset({"cpu", "cpuacct", "cpuset", "memory", "pids"})
"""Controllers without which kubelet does not start."""
CPUSET_COPIED = ("cpuset.cpus", "cpuset.mems")
"""Empty in a new cgroup, in which nothing can run then."""
END_SECONDS = 60.0


def hierarchies(mounts: str) -> dict[Path, frozenset[str]]:
    """Return where the hierarchies are, each with its mount's options: /proc/self/mounts."""
    rows = (line.split() for line in mounts.splitlines())
    return {
        Path(row[1]): frozenset(row[3].split(","))
        for row in rows
        if row[2] in ("cgroup", "cgroup2")
    }


def obstacle(mounts: Path = MOUNTS) -> str:
    """Return what keeps a kubelet from running on this kernel; empty if nothing does."""
    absent = NEEDED - frozenset().union(*hierarchies(mounts.read_text()).values())
    if not absent:
        return ""
    return (
        f"no cgroup v1 hierarchy with {', '.join(sorted(absent))}: a kubelet on this machine's own"
        " kernel is told to take those of version 1; mount them, or use another machine"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroups:
    """The cgroups of one node."""

    name: str
    places: Sequence[Path]
    """The mounted hierarchies."""

    @classmethod
    def make(cls, mounts: Path = MOUNTS) -> "Cgroups":
        """Make them, of a new name; SandboxError where the machine has not what kubelet needs."""
        problem = obstacle(mounts)
        if problem:
            raise SandboxError(problem, reason="MachineUnfit")
        found = hierarchies(mounts.read_text())
        made = cls(name=f"{PREFIX}{secrets.token_hex(4)}", places=tuple(found))
        for place, options in found.items():
            (place / made.name).mkdir()
            if "cpuset" in options:
                made._copy_cpuset(place)
        return made

    @property
    def path(self) -> str:
        """As kubelet's cgroupRoot names them."""
        return f"/{self.name}"

    def remove(self) -> None:
        """Wait until nothing runs in them, then remove them. Raises SandboxError."""
        for place in self.places:
            wait_until(
                lambda top=place / self.name: _removed(top),  # type: ignore[misc]
                seconds=END_SECONDS,
                what=f"end of what runs in {place / self.name}",
            )

    def _copy_cpuset(self, place: Path) -> None:
        for file in CPUSET_COPIED:
            (place / self.name / file).write_text((place / file).read_text())


def sweep(mounts: Path = MOUNTS) -> None:
    """Remove what earlier runs, which were killed, have left; what is in use stays."""
    for place in hierarchies(mounts.read_text()):
        for left in place.glob(f"{PREFIX}*"):
            # One that is in use below has processes at its top as well.
            if not (left / "cgroup.procs").read_text():
                _removed(left)


def _removed(top: Path) -> bool:
    """Remove a cgroup and those below it as far as they are empty; tell whether it is gone."""
    below = sorted((each for each in top.rglob("*") if each.is_dir()), reverse=True)
    for each in (*below, top):
        with contextlib.suppress(OSError):
            each.rmdir()
    return not top.exists()
