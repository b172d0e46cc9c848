"""Operations on process nodes: the power button, and kmm-cp as a process of the sandbox's."""

from dataclasses import dataclass

from kmm_sandbox.network import HOST_ADDRESS
from kmm_sandbox.processes import wait_until
from kmm_sandbox.programs import METRICS_PORT
from kmm_sandbox.replicas import Replicas
from kmm_sandbox.sandbox import Sandbox

BOOT_SECONDS = 120.0
ONLY_REPLICA = Replicas((f"{HOST_ADDRESS}:{METRICS_PORT}",))


@dataclass(frozen=True, slots=True)
class ProcessOperations:
    """On a sandbox that plays kubelet."""

    sandbox: Sandbox

    def reboot(self, node: str) -> str:
        """Press a node's power button, switch it on; return the id of the new boot."""
        machine = self.sandbox.nodes[node]
        before = machine.boot_id()
        machine.reboot()
        wait_until(
            lambda: machine.boot_id() not in ("", before), seconds=BOOT_SECONDS, what="new boot"
        )
        return machine.boot_id()

    def restart_control_plane(self) -> None:
        """Stop kmm-cp as a Pod is stopped, and start it again. Raises SandboxError."""
        self.sandbox.manager.restart()

    def replicas(self) -> Replicas:
        """Return the only one."""
        return ONLY_REPLICA
