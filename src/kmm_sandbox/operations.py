"""Operations where the sandbox plays kubelet: a node's own power, and kmm-cp as a process."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from kmm_sandbox.kmmcp import KmmCp
from kmm_sandbox.processes import wait_until
from kmm_sandbox.replicas import Replicas

BOOT_SECONDS = 120.0


class Bootable(Protocol):
    """A node that is switched off and on."""

    def reboot(self) -> None:
        """Switch it off, and on again. Raises SandboxError."""

    def boot_id(self) -> str:
        """Return the id of the running boot; empty while there is none."""


class Played(Protocol):
    """A sandbox that plays kubelet."""

    @property
    def nodes(self) -> Mapping[str, Bootable]: ...

    @property
    def kmm_cp(self) -> KmmCp: ...


@dataclass(frozen=True, slots=True)
class PlayedOperations:
    """On a sandbox that plays kubelet."""

    sandbox: Played

    def reboot(self, node: str) -> str:
        """Switch a node off, and on again; return the id of the new boot."""
        machine = self.sandbox.nodes[node]
        before = machine.boot_id()
        machine.reboot()
        wait_until(
            lambda: machine.boot_id() not in ("", before), seconds=BOOT_SECONDS, what="new boot"
        )
        return machine.boot_id()

    def restart_control_plane(self) -> None:
        """Stop kmm-cp as a Pod is stopped, and start it again. Raises SandboxError."""
        self.sandbox.kmm_cp.restart()

    def replicas(self) -> Replicas:
        """Return the only one."""
        return self.sandbox.kmm_cp.replicas
