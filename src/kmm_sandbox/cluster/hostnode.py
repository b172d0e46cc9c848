"""A node on this machine's own kernel: containerd, kubelet and kube-proxy.

They run in namespaces below the sandbox's, but for its network, which is theirs. So kube-proxy's
rules are also for what the other nodes send, since this machine is their router.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kmm_sandbox.cluster.cgroups import Cgroups
from kmm_sandbox.cluster.nodebinaries import NodeBinaries
from kmm_sandbox.cluster.settings import NodeSettings
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import Launcher, Process, run, wait_until

INIT = Path(__file__).parent / "hostnode.sh"
READY = "ready"
"""The first process makes this file when the namespaces are as they are to be."""
START_SECONDS = 120.0
IMPORT_SECONDS = 300.0


@dataclass(slots=True, kw_only=True)
class HostNode:
    """A running node; all of it hangs on its first process."""

    name: str
    address: str
    settings: NodeSettings
    cgroups: Cgroups
    launcher: Launcher
    first: Process
    processes: list[Process] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        name: str,
        address: str,
        *,
        settings: NodeSettings,
        cgroups: Cgroups,
        binaries: NodeBinaries,
        launcher: Launcher,
    ) -> "HostNode":
        """Start containerd, give it the images, and start kubelet. Raises SandboxError.

        The settings are written by whoever has the authority that signs the node's certificate.
        """
        (settings.directory / READY).unlink(missing_ok=True)
        own = ("--mount", "--pid", "--uts", "--fork", "--kill-child=KILL")
        homes = map(str, cgroups.homes)
        argv = ["unshare", *own, "sh", str(INIT), str(settings.directory), name, *homes]
        node = cls(
            name=name,
            address=address,
            settings=settings,
            cgroups=cgroups,
            launcher=launcher,
            first=launcher.start(f"{name}-init", argv),
        )
        try:
            node._start_programs(binaries)
        except BaseException:
            node.stop()
            raise
        return node

    def inside(self, *argv: str) -> list[str]:
        """Return argv such that it runs in the node's namespaces."""
        pid = child_of(self.first.pid)
        return ["nsenter", f"--target={pid}", "--mount", "--pid", "--uts", *argv]

    def require_alive(self) -> None:
        """Raise SandboxError, saying which, if a part of the node has ended."""
        for process in (self.first, *self.processes):
            process.require_alive()

    def stop(self) -> None:
        """End the node at once: its first process, with it all others, and their cgroups."""
        self.first.kill()
        for process in self.processes:
            process.kill()
        self.cgroups.remove()

    def _start_programs(self, binaries: NodeBinaries) -> None:
        wait_until(self._made, seconds=START_SECONDS, what=f"namespaces of {self.name}")
        self._start("containerd", ["containerd", "--config", str(self.settings.containerd)])
        wait_until(self._containerd_answers, seconds=START_SECONDS, what="containerd")
        for archive in sorted(self.settings.images.iterdir()):
            argv = self.inside("ctr", "--namespace=k8s.io", "images", "import", str(archive))
            run(argv, limit=IMPORT_SECONDS)
        self._start(
            "kubelet", kubelet_argv(binaries.kubelet, self.settings, self.name, self.address)
        )
        self._start("kube-proxy", proxy_argv(binaries.proxy, self.settings, self.name))

    def _start(self, program: str, argv: Sequence[str]) -> None:
        process = self.launcher.start(f"{self.name}-{program}", self.inside(*argv))
        self.processes.append(process)

    def _made(self) -> bool:
        self.first.require_alive()
        return (self.settings.directory / READY).exists()

    def _containerd_answers(self) -> bool:
        self.require_alive()
        try:
            run(self.inside("ctr", "version"), limit=START_SECONDS)
        except SandboxError:
            time.sleep(0.2)
            return False
        return True


def kubelet_argv(program: Path, settings: NodeSettings, name: str, address: str) -> list[str]:
    """Return kubelet's command line."""
    labels = ",".join(f"{key}={value}" for key, value in settings.labels.items())
    return [
        *(str(program), "--config", str(settings.kubelet)),
        *("--kubeconfig", str(settings.kubeconfig)),
        *("--hostname-override", name, "--node-ip", address, "--node-labels", labels),
    ]


def proxy_argv(program: Path, settings: NodeSettings, name: str) -> list[str]:
    """Return kube-proxy's command line; it leaves the machine's connection tracking as it is."""
    return [
        *(str(program), "--kubeconfig", str(settings.proxy_kubeconfig)),
        *("--hostname-override", name, "--proxy-mode", "iptables"),
        *("--conntrack-max-per-core", "0", "--conntrack-min", "0"),
    ]


def child_of(pid: int) -> int:
    """Return the only child of a process: what `unshare --fork` has started."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
