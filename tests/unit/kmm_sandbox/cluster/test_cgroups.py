"""Which hierarchies a machine has, and what is left in them."""

from pathlib import Path

import pytest

from kmm_sandbox.cluster.cgroups import PREFIX, Cgroups, hierarchies, sweep
from kmm_sandbox.errors import SandboxError

MOUNTS = """\
tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
"""


def test_hierarchies_are_those_of_both_versions_with_their_options() -> None:
    assert hierarchies(MOUNTS) == {
        Path("/sys/fs/cgroup/cpu,cpuacct"): frozenset({"rw", "relatime", "cpu", "cpuacct"}),
        Path("/sys/fs/cgroup/unified"): frozenset({"rw", "relatime"}),
    }


def test_controllers_that_are_missing_are_named_and_nothing_is_made(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"cgroup {tmp_path} cgroup rw,cpu,cpuacct,cpuset 0 0\n")
    with pytest.raises(SandboxError, match="hierarchy with memory, pids:"):
        Cgroups.make(mounts)
    assert list(tmp_path.iterdir()) == [mounts]


def test_a_cgroup_that_a_killed_run_has_left_goes_with_those_below_and_one_in_use_stays(
    tmp_path: Path,
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n")
    for name, processes in (("left", ""), ("used", "4711\n")):
        (tmp_path / f"{PREFIX}{name}" / "kubepods").mkdir(parents=True)
        # Unlike this file, those of a real cgroup do not keep it from being removed.
        (tmp_path / f"{PREFIX}{name}" / "cgroup.procs").write_text(processes)
    sweep(mounts)
    assert not (tmp_path / f"{PREFIX}left" / "kubepods").exists()
    assert (tmp_path / f"{PREFIX}used" / "kubepods").exists()
