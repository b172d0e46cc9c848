"""Operations on simulated nodes: their power, and kmm-cp as a process of the sandbox's."""

from dataclasses import dataclass

from kmm_sandbox.replicas import Replicas
from kmm_sandbox.simulated.sandbox import SimulatedSandbox


@dataclass(frozen=True, slots=True)
class SimulatedOperations:
    """On a sandbox of simulated nodes."""

    sandbox: SimulatedSandbox

    def reboot(self, node: str) -> str:
        """Cut a node's power, switch it on; return the id of the new boot."""
        machine = self.sandbox.nodes[node]
        machine.reboot()
        return machine.boot_id()

    def restart_control_plane(self) -> None:
        """Stop kmm-cp as a Pod is stopped, and start it again. Raises SandboxError."""
        self.sandbox.manager.restart()

    def replicas(self) -> Replicas:
        """Return the only one."""
        return Replicas((self.sandbox.manager.listening.metrics,))
