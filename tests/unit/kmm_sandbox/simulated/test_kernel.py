"""The simulated kernel does what modprobe, rmmod and depmod are asked for, and remembers it."""

from pathlib import Path

import pytest

from kmm_daemon.kernel import kmsg
from kmm_daemon.kernel.procfs import KernelFiles
from kmm_daemon.kernel.runner import Completed, Deadline
from kmm_sandbox.simulated.kernel import FileKernel, boot, first_invalid, log_lines, switch_off
from kmm_sandbox.simulated.modules import STOCK, VERSION, SimulatedTree


@pytest.fixture
def tree(tmp_path: Path) -> SimulatedTree:
    return SimulatedTree.make(tmp_path / f"image/lib/modules/{VERSION}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    boot(tmp_path / "kernel", version=VERSION, boot_id="boot-1")
    return tmp_path / "kernel"


async def run(root: Path, *argv: str) -> Completed:
    """Run a program as a daemon does that has just started."""
    return await FileKernel.found(root).run(argv, Deadline())


async def modprobe(root: Path, tree: SimulatedTree, *words: str, remove: bool = False) -> Completed:
    options = ("-r",) if remove else ()
    where = ("-d", str(tree.modules.parents[2]))
    return await run(root, "/sbin/modprobe", *options, *where, "--", *words)


def rows(root: Path) -> dict[str, tuple[str, ...]]:
    """Return the holders of what is in the kernel."""
    return {name: row.holders for name, row in KernelFiles(root=root).modules().items()}


async def test_module_comes_with_what_it_needs_and_outlives_the_daemon(
    root: Path, tree: SimulatedTree
) -> None:
    assert (await modprobe(root, tree, "slip", "slip_maxdev=64")).ok
    assert rows(root) == {"slhc": ("slip",), "slip": ()}
    assert KernelFiles(root=root).parameters("slip") == {"slip_maxdev": "64"}
    assert log_lines(root) == ["SLIP: version simulated (max=64)"]
    assert (await modprobe(root, tree, "ppp_generic")).ok
    assert rows(root)["slhc"] == ("slip", "ppp_generic")


async def test_shared_dependency_stays_as_long_as_somebody_needs_it(
    root: Path, tree: SimulatedTree
) -> None:
    for name in ("slip", "ppp_generic"):
        await modprobe(root, tree, name)
    assert (await run(root, "/sbin/rmmod", "slhc")).exit_code == 1
    for name in ("slip", "ppp_generic"):
        assert "slhc" in rows(root)
        assert (await modprobe(root, tree, name, remove=True)).ok
    assert rows(root) == {}
    assert KernelFiles(root=root).builtin() == frozenset()


async def test_module_goes_also_after_a_daemon_that_was_killed_while_another_went(
    root: Path, tree: SimulatedTree
) -> None:
    for name in ("slip", "ppp_generic"):
        await modprobe(root, tree, name)
    # What it had renamed and not removed yet.
    (root / "sys/module/ppp_generic").rename(root / "sys/.going")
    assert (await run(root, "/sbin/rmmod", "slip")).ok
    assert not (root / "sys/module/slip").exists()


async def test_parameter_that_is_no_number_is_refused_as_linux_refuses_it(
    root: Path, tree: SimulatedTree
) -> None:
    done = await modprobe(root, tree, "slip", "slip_maxdev=many")
    assert done.exit_code == 1
    assert "could not insert 'slip': Invalid argument" in done.stderr
    assert log_lines(root) == ["slip: `many' invalid for parameter `slip_maxdev'"]
    assert list(rows(root)) == ["slhc"]


async def test_parameter_that_the_module_does_not_have_is_ignored_with_a_warning(
    root: Path, tree: SimulatedTree
) -> None:
    assert (await modprobe(root, tree, "slip", "colour=red")).ok
    assert KernelFiles(root=root).parameters("slip") == {}
    record = kmsg.parse_record((root / "dev/kmsg").read_bytes())
    assert record == kmsg.Record(level=4, text="slip: unknown parameter 'colour' ignored")


@pytest.mark.parametrize("value", ["0", "-1", "64", "0x40"])
def test_numbers_are_taken_in_every_notation(value: str) -> None:
    assert first_invalid([f"slip_maxdev={value}"], STOCK["slip"].parameters) is None


async def test_reboot_leaves_nothing_in_the_kernel(root: Path, tree: SimulatedTree) -> None:
    await modprobe(root, tree, "slip")
    switch_off(root)
    assert not (root / "proc").exists()
    boot(root, version=VERSION, boot_id="boot-2")
    assert (rows(root), KernelFiles(root=root).boot_id()) == ({}, "boot-2")
    assert log_lines(root) == []


async def test_depmod_writes_what_modprobe_needs(root: Path, tree: SimulatedTree) -> None:
    (tree.modules / "modules.dep").unlink()
    assert (await run(root, "/sbin/depmod", "-b", str(tree.modules.parents[2]), VERSION)).ok
    assert tree.dependencies() == {
        "slhc.ko": (),
        "slip.ko": ("slhc.ko",),
        "ppp_generic.ko": ("slhc.ko",),
    }
