"""Which hierarchies a machine has, and what is left in them."""

from pathlib import Path

import pytest

from kmm_sandbox.cluster.cgroups import (
    LEAF,
    PREFIX,
    Cgroups,
    hierarchies,
    obstacle,
    starting,
    sweep,
)
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.repository import REPOSITORY

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
    with pytest.raises(
        SandboxError, match="hierarchy with memory, pids, and no cgroup v2 with cpu, memory, pids:"
    ):
        Cgroups.make(mounts)
    assert list(tmp_path.iterdir()) == [mounts]


def machine_with_v2(directory: Path, *, there: str, given: str = "") -> Path:
    """Make what looks like a cgroup v2 mount; return a list of mounts that has it."""
    top = directory / "cgroup"
    top.mkdir()
    (top / "cgroup.controllers").write_text(there)
    (top / "cgroup.subtree_control").write_text(given)
    mounts = directory / "mounts"
    mounts.write_text(f"cgroup2 {top} cgroup2 rw,nsdelegate 0 0\n")
    return mounts


def test_version_2_is_taken_where_it_has_the_controllers_and_the_node_goes_into_a_leaf(
    tmp_path: Path,
) -> None:
    mounts = machine_with_v2(tmp_path, there="cpuset cpu io memory pids", given="cpuset cpu memory")
    assert obstacle(mounts) == ""

    made = Cgroups.make(mounts)

    top = tmp_path / "cgroup"
    assert made.places == (top,)
    assert made.homes == [top / made.name / LEAF]
    assert made.homes[0].is_dir()
    # The one that was not given yet; the file of a real cgroup adds it.
    assert (top / "cgroup.subtree_control").read_text() == "+pids"
    assert dict(made.kubelet_settings) == {"cgroupRoot": f"/{made.name}"}
    made.remove()
    assert not (top / made.name).exists()


def test_version_1_stays_where_version_2_beside_it_has_not_all_controllers(tmp_path: Path) -> None:
    mounts = machine_with_v2(tmp_path, there="io")
    v1 = tmp_path / "v1"
    v1.mkdir()
    for file in ("cpuset.cpus", "cpuset.mems"):
        (v1 / file).write_text("0\n")
    with mounts.open("a") as table:
        table.write(f"cgroup {v1} cgroup rw,cpu,cpuacct,cpuset,memory,pids 0 0\n")

    made = Cgroups.make(mounts)

    assert made.homes == [tmp_path / "cgroup" / made.name, v1 / made.name]
    assert (v1 / made.name / "cpuset.mems").read_text() == "0\n"
    assert (tmp_path / "cgroup/cgroup.subtree_control").read_text() == ""
    assert made.kubelet_settings["failCgroupV1"] is False


def test_a_cgroup_of_version_2_that_is_in_use_is_not_swept(tmp_path: Path) -> None:
    mounts = machine_with_v2(tmp_path, there="cpu memory pids")
    used, left = Cgroups.make(mounts), Cgroups.make(mounts)
    (tmp_path / "cgroup" / used.name / "pids.current").write_text("1\n")

    sweep(mounts)

    assert used.homes[0].exists()
    assert (tmp_path / "cgroup" / used.name).exists()
    assert not (tmp_path / "cgroup" / left.name).exists()


@pytest.mark.parametrize(
    ("given", "processes", "told"),
    [("cpu", "1\n", "has processes"), ("cpu memory pids", "1\n", ""), ("", "", "")],
    ids=["occupied", "given already", "left"],
)
def test_containers_top_cgroup_that_has_processes_is_told_of_with_the_remedy(
    tmp_path: Path, given: str, processes: str, told: str
) -> None:
    mounts = machine_with_v2(tmp_path, there="cpu memory pids", given=given)
    top = tmp_path / "cgroup"
    (top / "cgroup.procs").write_text(processes)
    # The machine's own top has no such file, and gives controllers also where it has processes.
    assert obstacle(mounts) == ""
    (top / "cgroup.type").write_text("domain\n")
    said = obstacle(mounts)
    assert told in said
    assert bool(said) == bool(told)
    assert not said or (REPOSITORY / said.split()[-2]).is_file()


def test_controllers_that_cannot_be_given_are_refused_and_nothing_is_made(
    tmp_path: Path,
) -> None:
    mounts = machine_with_v2(tmp_path, there="cpu memory pids")
    top = tmp_path / "cgroup"
    (top / "cgroup.subtree_control").unlink()
    (top / "cgroup.subtree_control").symlink_to(tmp_path / "absent" / "file")
    with pytest.raises(SandboxError, match=r"does not take \+cpu \+memory \+pids: No such file"):
        Cgroups.make(mounts)
    assert not list(top.glob(f"{PREFIX}*"))


def test_cgroups_that_a_killed_run_has_left_go_with_those_below_and_ones_in_use_stay(
    tmp_path: Path,
) -> None:
    pids, memory, mounts = tmp_path / "pids", tmp_path / "memory", tmp_path / "mounts"
    mounts.write_text(f"cgroup {pids} cgroup rw,pids 0 0\ncgroup {memory} cgroup rw,memory 0 0\n")
    for name, processes in (("left", "0\n"), ("used", "3\n")):
        for place in (pids, memory):
            (place / f"{PREFIX}{name}" / "kubepods").mkdir(parents=True)
        # Unlike this file, those of a real cgroup do not keep it from being removed.
        (pids / f"{PREFIX}{name}" / "pids.current").write_text(processes)
        # Of a sandbox in another PID namespace none is named.
        (pids / f"{PREFIX}{name}" / "cgroup.procs").write_text("")
    sweep(mounts)
    assert not (pids / f"{PREFIX}left" / "kubepods").exists()
    assert not (memory / f"{PREFIX}left").exists()
    assert (pids / f"{PREFIX}used" / "kubepods").exists()
    assert (memory / f"{PREFIX}used" / "kubepods").exists()


def test_what_another_sandbox_has_just_made_is_not_swept(tmp_path: Path) -> None:
    mounts = machine_with_v2(tmp_path, there="cpu memory pids")
    with starting(mounts):
        made = Cgroups.make(mounts)
        sweep(mounts)
        assert made.homes[0].exists()
    sweep(mounts)
    assert not made.homes[0].exists()


def test_machine_without_cgroups_has_nothing_to_sweep_and_is_told_what_it_lacks(
    tmp_path: Path,
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("tmpfs / tmpfs rw 0 0\n")
    sweep(mounts)
    with pytest.raises(SandboxError, match="no cgroup v1 hierarchy with"), starting(mounts):
        Cgroups.make(mounts)
