"""`make sandbox-check`: the life of two Modules, unattended, with a verdict in JSON."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kmm_sandbox import samples, verdict
from kmm_sandbox.audit import ApiWrites, counted
from kmm_sandbox.errors import FAILURES, SandboxError
from kmm_sandbox.outcome import Outcome
from kmm_sandbox.processes import wait_until
from kmm_sandbox.progress import Progress
from kmm_sandbox.running import Operations, Running

SECONDS = 120.0
SHARED = "slhc"
"""What both Modules' modules depend on."""


def run(sandbox: Running, operations: Operations, progress: Progress) -> int:
    """Go through all steps; leave the verdict; 1 if a step failed."""
    journey = Journey(sandbox, operations, progress)
    version = sandbox.api.get("/version")["gitVersion"]
    ok = journey.run()
    verdict.leave(sandbox.directory, {"ok": ok, "kubernetes": version, **journey.told()})
    return 0 if ok else 1


@dataclass(slots=True)
class Journey:
    """The steps, each with what must hold at its end."""

    sandbox: Running
    operations: Operations
    progress: Progress
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
        self._apply("ppp", "ppp_generic")
        self.second.wait_loaded()
        self.second.wait_settled()

    def reboot(self) -> None:
        """Reboot a node; both Modules come back, in a new boot."""
        name = min(self.sandbox.nodes)
        boot = self.operations.reboot(name)
        self.first.wait_loaded_since(name, boot)
        self.second.wait_loaded_since(name, boot)

    def restart_control_plane(self) -> None:
        """Restart the control plane with everything loaded; it writes nothing."""
        self.first.wait_settled()
        self.second.wait_settled()
        self.operations.replicas().wait_idle(seconds=SECONDS)
        with self._counting("restart", modules=2):
            self.operations.restart_control_plane()
            replicas = self.operations.replicas()
            wait_until(
                lambda: replicas.sessions() == len(self.sandbox.nodes),
                seconds=SECONDS,
                what="sessions of all daemons with the new control plane",
            )
            # What Modules say of themselves is reconciled a moment later.
            replicas.wait_idle(seconds=SECONDS)
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
        self._apply("slip", "slip", parameter)

    def _apply(self, name: str, kernel_module: str, *parameters: str) -> None:
        image, placement = self.images[name], self.sandbox.placement
        manifest = samples.module(name, image, kernel_module, parameters, placement=placement)
        self.sandbox.kubectl.apply(manifest)

    def _require_in_kernels(self, module: str) -> None:
        for name, node in self.sandbox.nodes.items():
            if module not in node.loaded_modules():
                raise SandboxError(f"{name}: {module} is not in the kernel")

    def _step(self, name: str, action: Callable[[], None]) -> bool:
        """Take one step; note its time, and the failure if it is one."""
        started = self.progress.elapsed
        try:
            with self.progress.step(name):
                action()
        except (*FAILURES, KeyboardInterrupt) as error:
            told = verdict.told(error)
            self.progress.say(f"{name}: failed: {told}")
            self.steps.append({"step": name, "error": told})
            return False
        seconds = round(self.progress.elapsed - started, 2)
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
