"""A node of the sandbox: a machine with a kernel, the kubelet we play, and the daemon."""

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmm_sandbox import guestexec, programs
from kmm_sandbox.daemontls import daemon_identity, write_daemon_tls
from kmm_sandbox.guestexec import Answer
from kmm_sandbox.kubelet import Kubelet
from kmm_sandbox.network import HOST_ADDRESS, NOBODY
from kmm_sandbox.pki import Authority, Identity
from kmm_sandbox.pod import DaemonPod, make_bundle
from kmm_sandbox.uml import UmlNode

_numbers = itertools.count(1)
STEP_CLOCK = """
import sys, time
now = time.clock_gettime_ns(time.CLOCK_REALTIME)
time.clock_settime_ns(time.CLOCK_REALTIME, now + int(float(sys.argv[1]) * 1e9))
"""


@dataclass(slots=True, kw_only=True)
class Node:
    """Machine, kubelet and daemon under one name."""

    machine: UmlNode
    kubelet: Kubelet
    authority: Authority
    """Signs the daemons' certificates."""
    pod: DaemonPod = field(default_factory=DaemonPod.read)
    """What the daemon may do on the node."""
    daemon_revision: int = 0

    @property
    def name(self) -> str:
        return self.machine.spec.name

    @property
    def directory(self) -> Path:
        return self.machine.spec.files.directory

    @property
    def settings(self) -> Path:
        """The daemon's settings file."""
        return self.directory / "config" / "daemon.json"

    def join(self) -> None:
        """Register with the API server; the machine must be on."""
        self.kubelet.register()
        self.kubelet.start()

    def join_again(self) -> None:
        """Register anew, after the Node was deleted: kubelet and daemon never noticed."""
        self.kubelet.register()
        self.kubelet.say_again()

    def run_daemon(self) -> None:
        """Have the daemon run, now and after every boot, with a certificate of its Pod."""
        write_daemon_tls(self.directory / "tls", self.kubelet, self.authority)
        self.settings.parent.mkdir(exist_ok=True)
        programs.write_settings(self.settings, programs.daemon_settings())
        make_bundle(self._bundle("daemon"), self._container(self.daemon_argv()))
        self._tell_daemon(run=True)

    def restart_daemon(self) -> None:
        """Have the daemon end and start again."""
        self._tell_daemon(run=True)

    def stop_daemon(self) -> None:
        """Have the daemon end and stay away."""
        self._tell_daemon(run=False)

    def daemon_argv(self, *words: str) -> tuple[str, ...]:
        """Return the command line of the daemon, or of one of its other commands."""
        return (*programs.DAEMON, *words, *self.pod.container["args"])

    def run_in_pod(self, *argv: str) -> Answer:
        """Run a command in a container like the daemon's, whether that runs or not."""
        name = f"extra-{next(_numbers)}"
        make_bundle(self._bundle(name), self._container(argv))
        runtime = ("crun", "--cgroup-manager=cgroupfs")
        return self.execute(*runtime, "run", "--bundle", str(self._bundle(name)), name)

    def execute(self, *argv: str, stdin: str = "") -> Answer:
        """Run a command on the node."""
        files = self.machine.spec.files
        return guestexec.execute(files.directory, self.machine.boot, *argv, stdin=stdin)

    def loaded_modules(self) -> dict[str, str]:
        """Return the rows of /proc/modules by the module's name."""
        text = self.execute("cat", "/proc/modules").check()
        return {line.split()[0]: line for line in text.splitlines()}

    def boot_id(self) -> str:
        """Return the id of the running boot, as the guest's heartbeat has it."""
        facts = self.kubelet.facts()
        return str(facts["boot_id"]) if facts else ""

    def reboot(self) -> None:
        """Press the power button, then switch on."""
        self.machine.switch_off()
        self.machine.switch_on()

    def power_cycle(self) -> None:
        """Cut the power, then switch on."""
        self.machine.cut_power()
        self.machine.switch_on()

    def mute(self) -> None:
        """Lose what the node sends; what is sent to it still arrives."""
        lose = ("ip", "neigh", "replace", HOST_ADDRESS, "lladdr", NOBODY, "dev", "vec0")
        self.execute(*lose, "nud", "permanent").check()

    def unmute(self) -> None:
        """Let what the node sends arrive again."""
        self.execute("ip", "neigh", "del", HOST_ADDRESS, "dev", "vec0").check()

    def step_clock(self, seconds: float) -> None:
        """Put the node's wall clock so far forward, or back."""
        self.execute(sys.executable, "-I", "-S", "-c", STEP_CLOCK, str(seconds)).check()

    def require_alive(self) -> None:
        """Raise SandboxError if the node's kernel has ended."""
        self.machine.require_alive()

    def leave(self) -> None:
        """End everything of the node at once."""
        self.kubelet.stop()
        self.machine.cut_power()

    def identity(self) -> Identity:
        """Return what the daemon's certificate names: its Pod."""
        return daemon_identity(self.kubelet)

    def _bundle(self, name: str) -> Path:
        return self.directory / "containers" / name

    def _container(self, argv: Sequence[str]) -> dict[str, Any]:
        volumes = {"config": self.settings.parent, "tls": self.directory / "tls"}
        return self.pod.runtime_config(argv, volumes=volumes, places=programs.places())

    def _tell_daemon(self, *, run: bool) -> None:
        self.daemon_revision += 1
        wanted = {
            "bundle": str(self._bundle("daemon")),
            "directories": self.pod.made,
            "run": run,
            "revision": str(self.daemon_revision),
        }
        guestexec.write_whole(self.machine.spec.files.daemon, json.dumps(wanted))
