"""Machines that are switched on side by side, with other programs in the place of their kernels."""

from pathlib import Path

import pytest

from kmm_sandbox import guestexec
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.network import NodeAddress
from kmm_sandbox.processes import Launcher, wait_until
from kmm_sandbox.uml import NodeFiles, NodeSpec, UmlNode, booting

LONG = 600.0


def machine(directory: Path, *kernel: str) -> UmlNode:
    """Return a machine that is on and has not booted yet."""
    spec = NodeSpec(
        name="node1",
        address=NodeAddress(number=1),
        files=NodeFiles(directory=directory),
        sockets=directory,
    )
    launcher = Launcher(logs=directory, leashed=False)
    return UmlNode(spec=spec, launcher=launcher, process=launcher.start("node1", kernel))


def never_up(waited: UmlNode) -> None:
    def up() -> bool:
        waited.require_alive()
        return False

    wait_until(up, seconds=LONG, what="boot")


def test_interruption_ends_the_kernels_and_the_waiting_for_them(tmp_path: Path) -> None:
    one = machine(tmp_path, "sleep", "1000")
    with pytest.raises(KeyboardInterrupt), booting([(one, lambda: never_up(one))]):
        raise KeyboardInterrupt
    assert one.crashed


def test_kernel_that_ends_while_it_boots_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    short, other = machine(tmp_path, "true"), machine(tmp_path / "other", "sleep", "1000")
    starts = [(short, lambda: never_up(short)), (other, lambda: never_up(other))]
    with pytest.raises(SandboxError, match="the kernel of node1 has ended"), booting(starts):
        pass
    assert other.crashed


def test_command_is_not_waited_for_on_a_kernel_that_has_ended(tmp_path: Path) -> None:
    ended = machine(tmp_path, "true")
    (tmp_path / "exec").mkdir()
    with pytest.raises(SandboxError, match="the kernel of node1 has ended"):
        guestexec.execute(tmp_path, 1, "ls", seconds=LONG, require_alive=ended.require_alive)
