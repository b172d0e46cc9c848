"""A cgroup of one name in every hierarchy, and its end; kubelet puts those of Pods below it.

The kernel gives a controller either to a hierarchy of version 1 or to that of version 2. Kubelet
takes all of them from the same version. On a machine that has them in version 1 there may be the
hierarchy of version 2 beside them, without controllers: runc makes there what it makes in the
others. In version 2 a cgroup that has processes can give no controllers to those below it:
https://docs.kernel.org/admin-guide/cgroup-v2.html#no-internal-process-constraint
So there the node's first process is in a leaf.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import wait_until

MOUNTS = Path("/proc/self/mounts")
PREFIX = "kmm-sandbox-"
NEEDED_V1 = frozenset({"cpu", "cpuacct", "cpuset", "memory", "pids"})
NEEDED_V2 = frozenset({"cpu", "memory", "pids"})
"""Controllers without which kubelet does not start, or Pods have no limits."""
TAKEN_V2 = NEEDED_V2 | {"cpuset", "hugetlb"}
"""Those that kubelet wants its cgroup to have as far as the top of the hierarchy has them."""
CPUSET_COPIED = ("cpuset.cpus", "cpuset.mems")
"""Empty in a new cgroup of version 1, in which nothing can run then."""
LEAF = "node"
"""Name of the cgroup of the node's first process, in version 2."""
PROCESSES, CONTROLLERS, GIVEN = "cgroup.procs", "cgroup.controllers", "cgroup.subtree_control"
TYPE = "cgroup.type"
"""A file that the machine's top cgroup of version 2 does not have, and every other one has."""
CURRENT = "pids.current"
"""How many processes a cgroup and those below it have, whoever reads it: PROCESSES of version 1
does not name those of another PID namespace, and every sandbox has its own. In version 1 only the
hierarchy of the controller pids has the file."""
END_SECONDS = 60.0


def hierarchies(mounts: str) -> dict[Path, frozenset[str]]:
    """Return where the hierarchies are, each with its mount's options: /proc/self/mounts.

    In version 1 the controllers are among the options.
    """
    rows = (line.split() for line in mounts.splitlines())
    return {
        Path(row[1]): frozenset(row[3].split(","))
        for row in rows
        if row[2] in ("cgroup", "cgroup2")
    }


def controllers(place: Path, file: str = CONTROLLERS) -> frozenset[str]:
    """Return which a cgroup of version 2 has (CONTROLLERS), or gives to those below it (GIVEN)."""
    try:
        return frozenset((place / file).read_text().split())
    except FileNotFoundError:
        return frozenset()


def version_2(mounts: str) -> Path | None:
    """Return where version 2 has all the controllers that a kubelet needs, if it has."""
    places = hierarchies(mounts)
    return next((place for place in places if controllers(place) >= NEEDED_V2), None)


def obstacle(mounts: Path = MOUNTS) -> str:
    """Return what keeps a kubelet from running on this kernel; empty if nothing does."""
    text = mounts.read_text()
    if place := version_2(text):
        return _occupied(place)
    absent = NEEDED_V1 - frozenset().union(*hierarchies(text).values())
    if not absent:
        return ""
    there = frozenset().union(*map(controllers, hierarchies(text)))
    return (
        f"no cgroup v1 hierarchy with {', '.join(sorted(absent))}, and no cgroup v2 with"
        f" {', '.join(sorted(NEEDED_V2 - there))}: a kubelet on this machine's own kernel needs all"
        " in one of the versions; mount them, or use another machine"
    )


def _occupied(place: Path) -> str:
    """Say that processes keep a container's top cgroup from giving what a kubelet needs."""
    if controllers(place, GIVEN) >= NEEDED_V2 or not (place / TYPE).exists():
        return ""
    if not (place / PROCESSES).read_text().strip():
        return ""
    return (
        f"{place} has processes, so that it gives no controllers to cgroups below it: move them"
        " into one of their own, as .ci/free-top-cgroup does"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroups:
    """The cgroups of one node."""

    name: str
    places: Sequence[Path]
    """The mounted hierarchies."""
    leaf: str = ""
    """Below each of them, for the node's first process; empty in version 1."""

    @classmethod
    def make(cls, mounts: Path = MOUNTS) -> "Cgroups":
        """Make them, of a new name; SandboxError where the machine has not what kubelet needs."""
        problem = obstacle(mounts)
        if problem:
            raise SandboxError(problem, reason="MachineUnfit")
        text, name = mounts.read_text(), f"{PREFIX}{secrets.token_hex(4)}"
        place = version_2(text)
        return _made_v2(place, name) if place else _made_v1(text, name)

    @property
    def path(self) -> str:
        """As kubelet's cgroupRoot names them."""
        return f"/{self.name}"

    @property
    def homes(self) -> list[Path]:
        """Where the node's first process goes, which keeps all of this name from being swept."""
        return [place / self.name / self.leaf for place in self.places]

    @property
    def kubelet_settings(self) -> Mapping[str, Any]:
        """What kubelet's configuration says of them; by itself it refuses version 1."""
        return {"cgroupRoot": self.path, **({} if self.leaf else {"failCgroupV1": False})}

    def remove(self) -> None:
        """Wait until nothing runs in them, then remove them. Raises SandboxError."""
        for place in self.places:
            wait_until(
                lambda top=place / self.name: _removed(top),  # type: ignore[misc]
                seconds=END_SECONDS,
                what=f"end of what runs in {place / self.name}",
            )


@contextmanager
def starting(mounts: Path = MOUNTS) -> Iterator[None]:
    """Keep other sandboxes from sweeping what is made in the body until its process is there."""
    with _locked(mounts, fcntl.LOCK_SH):
        yield


def sweep(mounts: Path = MOUNTS) -> None:
    """Remove what earlier runs, which were killed, have left; what is in use stays.

    All stays while another sandbox starts: what that has made may look like it was left.
    """
    with contextlib.suppress(BlockingIOError), _locked(mounts, fcntl.LOCK_EX | fcntl.LOCK_NB):
        places = hierarchies(mounts.read_text())
        names = {each.name for place in places for each in place.glob(f"{PREFIX}*")}
        for name in names:
            if not _in_use(name, places):
                for place in places:
                    _removed(place / name)


@contextmanager
def _locked(mounts: Path, operation: int) -> Iterator[None]:
    """Hold a lock on one of the hierarchies, which all sandboxes of a machine share."""
    place = min(hierarchies(mounts.read_text()), default=None)
    if place is None:
        yield
        return
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


def _made_v1(mounts: str, name: str) -> Cgroups:
    """Make one in each hierarchy, also in the one of version 2."""
    found = hierarchies(mounts)
    for place, options in found.items():
        (place / name).mkdir()
        if "cpuset" in options:
            for file in CPUSET_COPIED:
                (place / name / file).write_text((place / file).read_text())
    return Cgroups(name=name, places=tuple(found))


def _made_v2(place: Path, name: str) -> Cgroups:
    """Make one with the controllers that kubelet wants, and the leaf below it.

    That the top of the hierarchy gives them stays so: another sandbox may need it by now.
    """
    absent = (controllers(place) & TAKEN_V2) - controllers(place, GIVEN)
    if absent:
        # At once: cpu alone is given even where there are processes, and is of no use.
        wanted = " ".join(f"+{each}" for each in sorted(absent))
        try:
            (place / GIVEN).write_text(wanted)
        except OSError as error:
            raise SandboxError(
                f"{place / GIVEN} does not take {wanted}: {error.strerror}",
                reason="MachineUnfit",
            ) from error
    (place / name).mkdir()
    (place / name / LEAF).mkdir()
    return Cgroups(name=name, places=(place,), leaf=LEAF)


def _in_use(name: str, places: Collection[Path]) -> bool:
    for place in places:
        # It may go at this moment, with its own sandbox.
        with contextlib.suppress(OSError):
            if int((place / name / CURRENT).read_text()):
                return True
    return False


def _removed(top: Path) -> bool:
    """Remove a cgroup and those below it as far as they are empty; tell whether it is gone."""
    below = sorted((each for each in top.rglob("*") if each.is_dir()), reverse=True)
    for each in (*below, top):
        with contextlib.suppress(OSError):
            each.rmdir()
    return not top.exists()
