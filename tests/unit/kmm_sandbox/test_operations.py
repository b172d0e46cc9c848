"""What is done to nodes whose kubelet is played."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kmm_sandbox.kmmcp import KmmCp
from kmm_sandbox.operations import PlayedOperations


@dataclass
class Slow:
    """A node whose new boot shows only after it was looked for."""

    shown: list[str] = field(default_factory=lambda: ["first"])

    def reboot(self) -> None:
        self.shown = ["first", "", "second"]

    def boot_id(self) -> str:
        return self.shown.pop(0) if len(self.shown) > 1 else self.shown[0]


@dataclass
class Sandbox:
    """One that is asked for its nodes only."""

    nodes: Mapping[str, Slow]

    @property
    def kmm_cp(self) -> KmmCp:
        raise AssertionError("a reboot needs no control plane")


def test_reboot_is_over_when_the_new_boot_shows() -> None:
    sandbox = Sandbox({"node1": Slow()})
    assert PlayedOperations(sandbox).reboot("node1") == "second"
