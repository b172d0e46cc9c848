"""A node with a kernel of its own, on which containerd and kubelet run."""

from dataclasses import dataclass, replace
from pathlib import Path

from kmm_sandbox import guestexec
from kmm_sandbox.cluster.hostnode import kubelet_argv
from kmm_sandbox.cluster.nodebinaries import NodeBinaries
from kmm_sandbox.cluster.settings import NodeSettings
from kmm_sandbox.guestexec import Answer
from kmm_sandbox.network import NodeAddress
from kmm_sandbox.processes import Launcher
from kmm_sandbox.uml import SHM_BYTES_PER_NODE, UmlNode, new_machine, shared_memory_fits

UP = Path(__file__).parent / "umlnode.sh"
UP_SECONDS = 400.0
MEMORY_MIB = 768
OWN_KERNEL = "kmm.test/own-kernel"
"""Label and taint of these nodes: slow and small, they are for what asks for them."""
TAINT = {"key": OWN_KERNEL, "value": "", "effect": "NoSchedule"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeletNode:
    """A machine and what it is told."""

    machine: UmlNode
    settings: NodeSettings
    binaries: NodeBinaries

    @classmethod
    def new(
        cls,
        directory: Path,
        launcher: Launcher,
        address: NodeAddress,
        binaries: NodeBinaries,
        *,
        of: int,
    ) -> "KubeletNode":
        """Return one of so many nodes, switched off; its settings are still to be written."""
        sandboxes = of * MEMORY_MIB * 2**20 // SHM_BYTES_PER_NODE + 1
        machine = new_machine(
            directory, launcher, address, in_shared_memory=shared_memory_fits(sandboxes)
        )
        machine.spec = replace(machine.spec, memory_mib=MEMORY_MIB)
        settings = NodeSettings(
            directory=machine.spec.files.directory,
            number=address.number,
            labels={OWN_KERNEL: ""},
            taints=(TAINT,),
        )
        return cls(machine=machine, settings=settings, binaries=binaries)

    @property
    def name(self) -> str:
        return self.machine.spec.name

    @property
    def address(self) -> NodeAddress:
        return self.machine.spec.address

    def switch_on(self) -> None:
        """Boot, then start containerd and kubelet. Raises SandboxError."""
        self.machine.switch_on()
        directory, boot = self.settings.directory, self.machine.boot
        kubelet = kubelet_argv(self.binaries.kubelet, self.settings, self.name, self.address.ip)
        argv = ("sh", str(UP), str(directory), str(boot), *kubelet)
        guestexec.execute(
            directory, boot, *argv, seconds=UP_SECONDS, require_alive=self.require_alive
        ).check()

    def switch_off(self) -> None:
        """Press the power button; cut the power if the node does not end."""
        self.machine.switch_off()

    def power_cycle(self) -> None:
        """Cut the power, then switch on."""
        self.machine.cut_power()
        self.switch_on()

    def execute(self, *argv: str, stdin: str = "") -> Answer:
        """Run a command on the node."""
        directory, boot = self.settings.directory, self.machine.boot
        return guestexec.execute(directory, boot, *argv, stdin=stdin)

    def loaded_modules(self) -> dict[str, str]:
        """Return the rows of /proc/modules by the module's name."""
        text = self.execute("cat", "/proc/modules").check()
        return {line.split()[0]: line for line in text.splitlines()}

    def require_alive(self) -> None:
        """Raise SandboxError if the node's kernel has ended."""
        self.machine.require_alive()
