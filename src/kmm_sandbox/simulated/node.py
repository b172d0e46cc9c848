"""A simulated node: a kernel of files, the kubelet we play, and the daemon as a process."""

import shutil
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from kmm_common.errors import TransientError
from kmm_daemon.kernel.procfs import KernelFiles
from kmm_sandbox import programs
from kmm_sandbox.daemontls import write_daemon_tls
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.guestexec import Answer
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.kubelet import Kubelet
from kmm_sandbox.pki import Authority
from kmm_sandbox.processes import Launcher, Process
from kmm_sandbox.simulated.kernel import boot, log_lines, switch_off
from kmm_sandbox.simulated.modules import VERSION

DAEMON = (sys.executable, "-m", "kmm_sandbox.simulated.daemon")
DRIFT_CHECK_SECONDS = 5.0
NOT_FOUND = 127
"""A shell's exit code for a program that is not there."""


@dataclass(slots=True, kw_only=True)
class SimulatedMachine:
    """On or off; what the kubelet is of."""

    root: Path
    """Holds the kernel's files."""
    boots: int = 0
    system: str = "simulated: no kernel"

    def switch_on(self) -> None:
        self.boots += 1
        boot(self.root, version=VERSION, boot_id=str(uuid.uuid4()))

    def switch_off(self) -> None:
        switch_off(self.root)

    def facts(self) -> Object | None:
        """Return `boot_id` and `kernel`; None while it is off."""
        files = KernelFiles(root=self.root)
        try:
            return {"boot_id": files.boot_id(), "kernel": files.kernel_version()}
        except TransientError:
            return None


@dataclass(slots=True, kw_only=True)
class SimulatedNode:
    """Machine, kubelet and daemon under one name."""

    directory: Path
    machine: SimulatedMachine
    kubelet: Kubelet
    launcher: Launcher
    authority: Authority
    """Signs the daemon's certificate."""
    server: str
    """host:port that the control plane has for daemons."""
    metrics_listen: str
    """host:port where the daemon tells its metrics."""
    daemon: Process | None = None

    @property
    def name(self) -> str:
        return self.kubelet.node

    @property
    def daemon_logs(self) -> list[Path]:
        """JSON lines, one file a boot."""
        boots = range(1, self.machine.boots + 1)
        return [self.launcher.logs / f"{self.name}.daemon.{number}.log" for number in boots]

    def join(self) -> None:
        """Switch on, register with the API server, start the daemon."""
        self.directory.mkdir(parents=True)
        self.machine.switch_on()
        self.kubelet.register()
        self.kubelet.start()
        write_daemon_tls(self.directory / "tls", self.kubelet, self.authority)
        self._start_daemon()

    def reboot(self) -> None:
        """Cut the power, then switch on: kernel and /run are as new."""
        self._kill_daemon()
        self.machine.switch_off()
        shutil.rmtree(self.directory / "run", ignore_errors=True)
        self.machine.switch_on()
        self._start_daemon()

    def boot_id(self) -> str:
        """Return the id of the running boot; empty while it is off."""
        facts = self.machine.facts()
        return str(facts["boot_id"]) if facts else ""

    def loaded_modules(self) -> dict[str, str]:
        """Return the rows of /proc/modules by the module's name."""
        text = (self.machine.root / "proc/modules").read_text()
        return {line.split()[0]: line for line in text.splitlines()}

    def execute(self, *argv: str) -> Answer:
        """Answer dmesg: there is nothing that could run another command."""
        if argv == ("dmesg",):
            lines = (f"{line}\n" for line in log_lines(self.machine.root))
            return Answer(code=0, stdout="".join(lines), stderr="")
        return Answer(code=NOT_FOUND, stdout="", stderr=f"{argv[0]}: a simulated node has no shell")

    def require_alive(self) -> None:
        """Raise SandboxError if the daemon has ended by itself."""
        if self.daemon is None:
            raise SandboxError(f"no daemon runs on {self.name}")
        self.daemon.require_alive()

    def leave(self) -> None:
        """End everything of the node at once."""
        self.kubelet.stop()
        self._kill_daemon()

    def _start_daemon(self) -> None:
        config = programs.write_settings(self.directory / "daemon.json", self._settings())
        argv = [*DAEMON, str(self.machine.root), "--config", str(config)]
        self.daemon = self.launcher.start(f"{self.name}.daemon", argv, log=self.daemon_logs[-1])

    def _kill_daemon(self) -> None:
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon = None

    def _settings(self) -> Object:
        return {
            "server": self.server,
            "server_name": programs.SERVER_NAME,
            "tls": programs.tls_files(self.directory / "tls", "daemon"),
            "run_dir": str(self.directory / "run"),
            "state_dir": str(self.directory / "state"),
            "firmware_dir": str(self.directory / "firmware"),
            "metrics_listen": self.metrics_listen,
            "drift_check_seconds": DRIFT_CHECK_SECONDS,
            "log_format": "json",
        }
