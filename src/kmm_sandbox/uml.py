"""A node: one User-Mode Linux kernel that is switched on and off."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kmm_sandbox import guest, mconsole, xstate
from kmm_sandbox.cache import cache_directory
from kmm_sandbox.disk import make_disk
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.network import HOST_ADDRESS, NodeAddress
from kmm_sandbox.processes import Launcher, Process, wait_until
from kmm_sandbox.umlkernel import PROGRAM

MEMORY_MIB = 256
BOOT_SECONDS = 300.0
STOP_SECONDS = 15.0
READY_MARK = b"AGENT-READY"
GUEST = Path(guest.__file__).parent
SHM_BYTES_PER_NODE = (MEMORY_MIB + 32) * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFiles:
    """A node's directory, the same path on the host and in the guest (hostfs)."""

    directory: Path

    def make(self) -> None:
        """Make the directories and the disk a node starts with."""
        for name in ("exec", "tls"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        make_disk(self.disk)

    @property
    def disk(self) -> Path:
        """The image of the node's disk."""
        return self.directory / "disk.img"

    def console(self, boot: int) -> Path:
        """What the kernel of the n-th boot printed."""
        return self.directory / f"console.{boot}.log"

    def daemon_log(self, boot: int) -> Path:
        """What the daemon logged in the n-th boot."""
        return self.directory / f"daemon.{boot}.log"

    @property
    def heartbeat(self) -> Path:
        return self.directory / "heartbeat.json"

    @property
    def daemon(self) -> Path:
        return self.directory / "daemon.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """What a node is, whether it is on or off."""

    name: str
    address: NodeAddress
    files: NodeFiles
    sockets: Path
    """A short path: the console's socket must fit into 108 bytes."""
    memory_mib: int = MEMORY_MIB
    tmpdir: str = ""
    """Where the guest's memory lives if not in /dev/shm."""


def uml_argv(spec: NodeSpec, boot: int) -> list[str]:
    """Return the command line of a node's kernel; unknown K=V words are its init's environment."""
    address = spec.address
    return [
        *(PROGRAM, f"umid={spec.name}", f"uml_dir={spec.sockets}/", f"mem={spec.memory_mib}M"),
        *("rootfstype=hostfs", "rootflags=/", "ro", "init=/bin/sh", f"ubd0={spec.files.disk}"),
        *("con=null", "con0=null,fd:1", "con1=null", "ssl=null", "quiet", "panic=-1"),
        # gro=1: bulk TCP hangs without it. depth=64: 128 draws a warning.
        f"vec0:transport=tap,ifname={address.tap},depth=64,gro=1,mac={address.mac}",
        *(f"NODE_NAME={spec.name}", f"NODE_BOOT={boot}", f"NODE_DIR={spec.files.directory}"),
        *(f"NODE_IP={address.ip}", f"NODE_GATEWAY={HOST_ADDRESS}"),
        *(f"NODE_PYTHON={os.path.realpath(sys.executable)}", f"NODE_AGENT={GUEST / 'agent.py'}"),
        *("--", str(GUEST / "init.sh")),
    ]


@dataclass(slots=True, kw_only=True)
class UmlNode:
    """A node with its power switch; not to be switched by two threads at once."""

    spec: NodeSpec
    launcher: Launcher
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the kernel's process needs on this host."""
    boot: int = 0
    """Counts the times it was switched on."""
    process: Process | None = field(default=None)

    @property
    def on(self) -> bool:
        return self.process is not None

    @property
    def crashed(self) -> bool:
        """True if it is switched on, but its kernel has ended."""
        return self.process is not None and not self.process.alive

    def require_alive(self) -> None:
        """Raise SandboxError if its kernel has ended."""
        if self.crashed:
            raise SandboxError(f"the kernel of {self.spec.name} has ended")

    def switch_on(self) -> None:
        """Boot and wait for the agent. Raises SandboxError with the console's last lines."""
        if self.process is not None:
            raise SandboxError(f"{self.spec.name} is switched on already")
        # With a stale directory the kernel silently takes another name, and its console is lost.
        shutil.rmtree(self.spec.sockets / self.spec.name, ignore_errors=True)
        self.boot += 1
        console = self.spec.files.console(self.boot)
        tmpdir = {"TMPDIR": self.spec.tmpdir} if self.spec.tmpdir else {}
        self.process = self.launcher.start(
            self.spec.name,
            uml_argv(self.spec, self.boot),
            log=console,
            env={**self.environment, **tmpdir},
        )
        wait_until(
            lambda: self._booted(console), seconds=BOOT_SECONDS, what=f"boot of {self.spec.name}"
        )

    def switch_off(self) -> None:
        """Press the power button, wait for the guest to end, cut the power if it does not."""
        if self.process is None:
            return
        with contextlib.suppress(SandboxError, subprocess.TimeoutExpired):
            mconsole.send(self.spec.sockets / self.spec.name / "mconsole", "cad")
            self.process.popen.wait(timeout=STOP_SECONDS)
        # A guest that hangs is switched off all the same.
        self.cut_power()

    def cut_power(self) -> None:
        """End the node as a power failure does. Killing only its main process leaves helpers."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def crash(self) -> None:
        """End its kernel under whoever waits for it; it stays switched on."""
        if self.process is not None:
            self.process.kill()

    def suspend(self) -> None:
        """Stop the machine as a host does that freezes its guests.

        Only its main process: a stopped process of the guest's would be told to the guest's kernel,
        which traces it and ends.
        """
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended machine go on."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGCONT)

    def _booted(self, console: Path) -> bool:
        if self.process is not None:
            self.process.require_alive()
        return READY_MARK in console.read_bytes()


@contextmanager
def booting(starts: Sequence[tuple[UmlNode, Callable[[], None]]]) -> Iterator[None]:
    """Start machines side by side while the body runs, then wait for them. Raises SandboxError.

    When the body or one of them fails, or at Ctrl-C, the kernels of all of them end, since nothing
    else ends the threads that wait for them.
    """
    with ThreadPoolExecutor() as pool:
        started = [pool.submit(start) for _, start in starts]
        try:
            yield
            for future in started:
                future.result()
        except BaseException:
            for machine, _ in starts:
                machine.crash()
            raise


def new_machine(
    directory: Path, launcher: Launcher, address: NodeAddress, *, in_shared_memory: bool
) -> UmlNode:
    """Return a machine that is switched off, with its files below `directory`."""
    name = f"node{address.number}"
    files = NodeFiles(directory=directory / name)
    files.make()
    sockets = directory / "uml"
    sockets.mkdir(exist_ok=True)
    spec = NodeSpec(
        name=name,
        address=address,
        files=files,
        sockets=sockets,
        tmpdir="" if in_shared_memory else str(directory),
    )
    return UmlNode(spec=spec, launcher=launcher, environment=xstate.preload(cache_directory()))


def shared_memory_fits(nodes: int) -> bool:
    """Tell whether guests' memory fits into /dev/shm; a guest panics when it does not."""
    shared = Path("/dev/shm")  # noqa: S108 (where User-Mode Linux puts it)
    return shared.is_dir() and shutil.disk_usage(shared).free > nodes * SHM_BYTES_PER_NODE
