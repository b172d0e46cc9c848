"""`make sandbox-check`: the life of two Modules, unattended, with a verdict in JSON."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kmm_common.errors import KmmError
from kmm_sandbox import samples, verdict
from kmm_sandbox.audit import ApiWrites, counted
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.idle import wait_idle
from kmm_sandbox.outcome import Outcome
from kmm_sandbox.processes import wait_until
from kmm_sandbox.relay import Relay
from kmm_sandbox.sandbox import Sandbox

SECONDS = 120.0
SHARED = "slhc"
"""What both Modules' modules depend on."""
SESSION = '"msg": "session with the control plane"'
"""What a daemon logs when a session stands."""


def run(sandbox: Sandbox, relay: Relay) -> int:
    """Go through all steps; leave the verdict; 1 if a step failed."""
    journey = Journey(sandbox)
    version = sandbox.api.get("/version")["gitVersion"]
    ok = journey.run()
    verdict.leave(sandbox.directory, {"ok": ok, "kubernetes": version, **journey.told()})
    return 0 if ok else 1


@dataclass(slots=True)
class Journey:
    """The steps, each with what must hold at its end."""

    sandbox: Sandbox
    steps: list[dict[str, object]] = field(default_factory=list)
    writes: dict[str, ApiWrites] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)

    @property
    def first(self) -> Outcome:
        return Outcome(self.sandbox, "slip", "slip")

    @property
    def second(self) -> Outcome:
        return Outcome(self.sandbox, "ppp", "ppp_generic")

    def run(self) -> bool:
        """Take the steps in order until one fails; tell whether none did."""
        steps: list[tuple[str, Callable[[], None]]] = [
            ("load", self.load),
            ("parameter", self.change_parameter),
            ("shared dependency", self.share_dependency),
            ("reboot", self.reboot),
            ("control plane restart", self.restart_control_plane),
            ("unload one", self.unload_one),
            ("unload", self.unload),
        ]
        return all(self._step(name, action) for name, action in steps)

    def told(self) -> dict[str, object]:
        """Return what was run on, how long it took, and what it cost the API server."""
        return {
            "kernel": self.sandbox.kernel.version,
            "steps": self.steps,
            "api_writes": {name: round(each.per_pair, 2) for name, each in self.writes.items()},
            "api_writes_by_kind": {name: each.by_kind for name, each in self.writes.items()},
            "api_writes_apart": {name: each.apart for name, each in self.writes.items()},
            "api_writes_refused": {name: each.failed for name, each in self.writes.items()},
        }

    def load(self) -> None:
        """Load the first Module; it is in every kernel, with what it depends on."""
        for name, modules in (("slip", ("slip",)), ("ppp", ("ppp_generic",))):
            self.images[name] = samples.push(self.sandbox, name, modules)
        with self._counting("load", modules=1):
            self._apply_first("slip_maxdev=64")
            self.first.wait_loaded()
            self.first.wait_settled()
        self._require_in_kernels(SHARED)

    def change_parameter(self) -> None:
        """Change a parameter; the kernel has the new one."""
        before = self.first.config_hashes()
        with self._counting("parameter", modules=1):
            self._apply_first("slip_maxdev=32")
            self.first.wait_loaded()
            self.first.wait_settled()
        if before & self.first.config_hashes():
            raise SandboxError("a node says that it still has the old parameter")
        for name, node in self.sandbox.nodes.items():
            said = node.execute("dmesg").check()
            last = [line for line in said.splitlines() if "SLIP: version" in line][-1]
            if "max=32" not in last:
                raise SandboxError(f"{name}: the kernel says {last}")

    def share_dependency(self) -> None:
        """Load a second Module that needs what the first one has brought."""
        manifest = samples.module("ppp", self.images["ppp"], "ppp_generic")
        self.sandbox.kubectl.apply(manifest)
        self.second.wait_loaded()
        self.second.wait_settled()

    def reboot(self) -> None:
        """Reboot a node; both Modules come back, in a new boot."""
        node = self.sandbox.nodes["node1"]
        before = node.boot_id()
        node.reboot()
        wait_until(lambda: node.boot_id() not in ("", before), seconds=SECONDS, what="new boot")
        self.first.wait_loaded()
        self.second.wait_loaded()

    def restart_control_plane(self) -> None:
        """Restart the control plane with everything loaded; it writes nothing."""
        self.first.wait_settled()
        self.second.wait_settled()
        wait_idle(seconds=SECONDS)
        starts = {name: self._daemon_sessions(name) for name in self.sandbox.nodes}
        with self._counting("restart", modules=2):
            code = self.sandbox.stop_control_plane()
            if code:
                raise SandboxError(f"kmm-cp ended with exit code {code}")
            self.sandbox.start_control_plane()
            for name, before in starts.items():
                self._wait_for_session(name, before)
            # What Modules say of themselves is reconciled a moment later.
            wait_idle(seconds=SECONDS)
        wrote = self.writes["restart"]
        if wrote.by_kind or wrote.in_vain:
            raise SandboxError(f"the restart wrote {wrote.by_kind}, was refused {wrote.in_vain}")

    def unload_one(self) -> None:
        """Delete the second Module; the shared dependency stays for the first."""
        with self._counting("unload", modules=1):
            self.sandbox.kubectl("delete", "module", "ppp", f"--timeout={SECONDS:.0f}s")
            self.second.wait_gone()
        self._require_in_kernels(SHARED)
        self.first.wait_loaded()

    def unload(self) -> None:
        """Delete the first Module; nothing of it is left on any node."""
        self.sandbox.kubectl("delete", "module", "slip", f"--timeout={SECONDS:.0f}s")
        self.first.wait_gone()
        for name, node in self.sandbox.nodes.items():
            if SHARED in node.loaded_modules():
                raise SandboxError(f"{name}: {SHARED} was left in the kernel")

    def _apply_first(self, parameter: str) -> None:
        manifest = samples.module("slip", self.images["slip"], "slip", [parameter])
        self.sandbox.kubectl.apply(manifest)

    def _require_in_kernels(self, module: str) -> None:
        for name, node in self.sandbox.nodes.items():
            if module not in node.loaded_modules():
                raise SandboxError(f"{name}: {module} is not in the kernel")

    def _wait_for_session(self, node: str, before: int) -> None:
        wait_until(
            lambda: self._daemon_sessions(node) > before,
            seconds=SECONDS,
            what=f"session of {node}",
        )

    def _daemon_sessions(self, node: str) -> int:
        """Return how many sessions the daemon of a node has had."""
        logs = self.sandbox.daemon_logs(node)
        return sum(log.read_text().count(SESSION) for log in logs)

    def _step(self, name: str, action: Callable[[], None]) -> bool:
        """Take one step; note its time, and the failure if it is one."""
        started = self.sandbox.progress.elapsed
        try:
            with self.sandbox.progress.step(name):
                action()
        except (KmmError, OSError, KeyboardInterrupt) as error:
            told = verdict.told(error)
            self.sandbox.progress.say(f"{name}: failed: {told}")
            self.steps.append({"step": name, "error": told})
            return False
        seconds = round(self.sandbox.progress.elapsed - started, 2)
        self.steps.append({"step": name, "seconds": seconds})
        return True

    @contextmanager
    def _counting(self, name: str, *, modules: int) -> Iterator[None]:
        """Count the API writes of KMM's own user while the body runs."""
        log = self.sandbox.plane.layout.audit_log
        before = log.stat().st_size
        yield
        with log.open("rb") as file:
            file.seek(before)
            lines = file.read().decode().splitlines()
        self.writes[name] = counted(lines, nodes=len(self.sandbox.nodes), modules=modules)
