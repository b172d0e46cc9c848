"""PID 1 of a node: heartbeat, container runtime for the daemon, remote commands, power-off.

It talks to the host through files in the node's directory (hostfs), so that it can be reached
whatever happens to the network:

  heartbeat.json     written every second: boot id, kernel, the daemon's process and its last end
  daemon.json        read: {"bundle": path, "directories": [path, ...], "run": bool,
                     "revision": str}; the bundle is one of an OCI runtime
  exec/<id>.request  read: {"boot": int, "argv": [...], "stdin": str, "seconds": float}
  exec/<id>.answer   written: {"code": int, "stdout": str, "stderr": str}
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Any

Object = dict[str, Any]
Child = subprocess.Popen[bytes]

TICK_SECONDS = 0.05
HEARTBEAT_SECONDS = 1.0
RESTART_SECONDS = (0.5, 1, 2)
STEADY_SECONDS = 10.0
"""A daemon that ran this long is restarted without delay growing."""
STOP_SECONDS = 10.0
"""For a container that is told to end; a Pod has 30 usually."""
REMOVE_SECONDS = 5.0
RUNTIME_SECONDS = 8
POWER_OFF = 0x4321FEDC


def write(path: Path, value: object) -> None:
    """Replace a file as a whole: a reader on the host never sees half of it."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(json.dumps(value))
    scratch.replace(path)


def read(path: Path) -> Object | None:
    """Return a file's JSON object, None if there is no such file."""
    try:
        content: Object = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return content


def kill_group(process: Child) -> None:
    """End a process and all it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class Container:
    """A container of the daemon's Pod, run by crun in a cgroup of its own; its process is ours."""

    def __init__(self, name: str, bundle: str, log: IO[bytes]) -> None:
        """Start it; if the runtime cannot, it has ended at once, and the log says why."""
        self._name = name
        self.pid: int | None = None
        self.exit_code: int | None = None
        """None while it runs; minus the signal's number if one ended it."""
        pid_file = Path(f"/run/{name}.pid")
        options = ("--detach", "--bundle", bundle, "--pid-file", str(pid_file))
        code = subprocess.run(
            crun("run", *options, name),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
        ).returncode
        if code:
            self.exit_code = code
        else:
            self.pid = int(pid_file.read_text())

    def poll(self) -> int | None:
        """Return how its process has ended, None while it runs."""
        if self.exit_code is None and self.pid is not None:
            # Until the runtime has ended, in a moment, it is its child, and ours from then on.
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.exit_code = os.waitstatus_to_exitcode(status)
        return self.exit_code

    def terminate(self) -> None:
        """Ask its process to end."""
        if self.poll() is None and self.pid is not None:
            os.kill(self.pid, signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        """Wait until its process has ended, or for so long."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(TICK_SECONDS)

    def remove(self) -> None:
        """End whatever is left in it; a process that cannot be killed stays, as on any node."""
        # Nobody waits for it: with such a process it takes as long as that.
        subprocess.Popen(crun("delete", "--force", self._name), stdin=subprocess.DEVNULL)
        self.wait(REMOVE_SECONDS)


def crun(*arguments: str) -> list[str]:
    """Return a command line of the container runtime."""
    return ["timeout", str(RUNTIME_SECONDS), "crun", "--cgroup-manager=cgroupfs", *arguments]


class Daemon:
    """Keeps one container running, as a kubelet keeps that of a DaemonSet's pod."""

    def __init__(self, directory: Path, boot: int) -> None:
        self._wanted = directory / "daemon.json"
        self._log = directory / f"daemon.{boot}.log"
        self._container: Container | None = None
        self._revision = ""
        self._failures = 0
        self._started = 0.0
        self._not_before = 0.0
        self.starts = 0
        self.exit_code: int | None = None
        """How the last one ended: minus the signal's number if one ended it."""

    def pids(self) -> set[int]:
        return {self._container.pid} if self._container and self._container.pid else set()

    def tick(self, now: float) -> None:
        """Start, restart or stop the container so that it is as daemon.json says."""
        wanted = read(self._wanted) or {"run": False}
        if self._container and self._container.poll() is not None:
            self._remove()
            self._ended(now)
        if self._container and (not wanted["run"] or wanted["revision"] != self._revision):
            self.stop()
        if wanted["run"] and not self._container and now >= self._not_before:
            self._start(wanted, now)

    def stop(self) -> None:
        """Ask the process to end, insist after ten seconds."""
        if self._container:
            self._container.terminate()
            self._container.wait(STOP_SECONDS)
            self._remove()
            self._failures = 0
            self._not_before = 0.0

    def _start(self, wanted: Object, now: float) -> None:
        for path in wanted["directories"]:
            Path(path).mkdir(parents=True, exist_ok=True)
        self.starts += 1
        with self._log.open("ab") as log:
            self._container = Container(f"kmm-daemon-{self.starts}", wanted["bundle"], log)
        self._revision, self._started = wanted["revision"], now

    def _remove(self) -> None:
        if self._container:
            self._container.remove()
            self.exit_code = self._container.exit_code
            self._container = None

    def _ended(self, now: float) -> None:
        self._failures = 0 if now - self._started > STEADY_SECONDS else self._failures + 1
        delay = RESTART_SECONDS[min(self._failures, len(RESTART_SECONDS) - 1)]
        self._not_before = now + delay


class Command:
    """One remote command, with its output in files of the guest."""

    def __init__(self, request: Object, scratch: Path, now: float) -> None:
        self._deadline = now + request["seconds"]
        self._process: Child | None = None
        self._refused = ""
        self._files = [scratch.with_suffix(end) for end in (".in", ".out", ".err")]
        self._files[0].write_text(request["stdin"])
        stdin, out, err = self._files
        with stdin.open() as source, out.open("w") as output, err.open("w") as errors:
            self._start(request["argv"], source, output, errors)

    def _start(self, argv: list[str], stdin: IO[str], out: IO[str], err: IO[str]) -> None:
        try:
            self._process = subprocess.Popen(
                argv, stdin=stdin, stdout=out, stderr=err, start_new_session=True
            )
        except OSError as error:
            self._refused = f"{argv[0]}: {error.strerror}"

    def pids(self) -> set[int]:
        return {self._process.pid} if self._process else set()

    def answer(self, now: float) -> Object | None:
        """Return what the command left when it has ended, None before."""
        if self._process is None:
            return {"code": 127, "stdout": "", "stderr": self._refused}
        code = self._process.poll()
        if code is None and now < self._deadline:
            return None
        kill_group(self._process)
        texts = [file.read_text(errors="replace") for file in self._files]
        for file in self._files:
            file.unlink()
        late = "" if code is not None else "\nended at its deadline"
        return {"code": self._process.wait(), "stdout": texts[1], "stderr": texts[2] + late}


class Commands:
    """Carries out what the host asks for in the exec directory."""

    def __init__(self, directory: Path, boot: int) -> None:
        self._directory, self._boot = directory / "exec", boot
        self._scratch = Path("/run/exec")
        self._scratch.mkdir()
        self._running: dict[str, Command] = {}

    def tick(self, now: float) -> None:
        """Start what is asked for anew, answer what has ended."""
        for path in self._directory.iterdir():
            if path.suffix == ".request":
                self._accept(path, now)
        for key, command in list(self._running.items()):
            answer = command.answer(now)
            if answer is not None:
                write(self._directory / f"{key}.answer", answer)
                del self._running[key]

    def pids(self) -> set[int]:
        return {pid for command in self._running.values() for pid in command.pids()}

    def _accept(self, path: Path, now: float) -> None:
        request = read(path)
        path.unlink()
        if request and request["boot"] == self._boot:
            self._running[path.stem] = Command(request, self._scratch / path.stem, now)


class Agent:
    """Everything PID 1 does, in one loop."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._directory = Path(environment["NODE_DIR"])
        self._boot = int(environment["NODE_BOOT"])
        self._daemon = Daemon(self._directory, self._boot)
        self._commands = Commands(self._directory, self._boot)
        self._beat = 0.0
        self._stopping = False

    def press_power_button(self, *_: object) -> None:
        self._stopping = True

    def run(self) -> None:
        """Serve until the power button is pressed."""
        print("AGENT-READY", flush=True)
        while not self._stopping:
            now = time.monotonic()
            self._daemon.tick(now)
            self._commands.tick(now)
            if now >= self._beat:
                self._beat = now + HEARTBEAT_SECONDS
                write(self._directory / "heartbeat.json", self._facts())
            reap_orphans(self._daemon.pids() | self._commands.pids())
            time.sleep(TICK_SECONDS)
        self._daemon.stop()

    def _facts(self) -> Object:
        return {
            "boot": self._boot,
            "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "kernel": os.uname().release,
            "daemon_pid": min(self._daemon.pids(), default=None),
            "daemon_starts": self._daemon.starts,
            "daemon_exit_code": self._daemon.exit_code,
        }


def reap_orphans(own: set[int]) -> None:
    """Collect ended processes whose parents are gone; own children are polled by their owners."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in own:
            return
        os.waitpid(ended.si_pid, 0)


def power_off() -> None:
    """Switch the machine off; a reboot would come back without its network."""
    os.sync()
    ctypes.CDLL(None).reboot(POWER_OFF)


def main() -> None:
    agent = Agent(dict(os.environ))
    signal.signal(signal.SIGINT, agent.press_power_button)
    agent.run()
    power_off()


if __name__ == "__main__":
    main()
