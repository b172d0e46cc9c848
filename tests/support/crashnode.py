"""A daemon that dies: agent, journal, image store and kernel port in a process with a fuse.

Run as a program it reads orders from stdin, one JSON object a line, and forks a life for each: the
life brings its node through the generations that are left, and is killed by SIGKILL at its n-th
step on the disk or into the kernel. The answer, a JSON object a line, says how the life ended.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kmm_common import logs
from kmm_common.clock import SystemClock
from kmm_common.desired import DesiredModule, Modprobe, ModuleRef, RegistryTLS, config_hash
from kmm_common.oci.credentials import RegistryCredential
from kmm_common.oci.platform import Platform
from kmm_daemon.agent import Agent
from kmm_daemon.images.source import ImageStore
from kmm_daemon.journal import Journal
from kmm_daemon.kernel.claims import Claim
from kmm_daemon.kernel.runner import Completed, Deadline
from kmm_daemon.metrics import Metrics
from kmm_daemon.values import KernelModule
from support.crashwindow import Window, windows
from support.node import snapshot
from support.tmpkernel import KERNEL, TmpKernel

BOOT = "boot-1"
SECONDS = 60.0
FIRMWARE = "/firmware"
DURABLE = ("fsync", "link", "rename", "replace", "rmdir", "symlink", "unlink")
"""Functions of os that leave something behind when the process is gone."""
_replace = os.replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a life is told."""

    directory: str
    registry: str
    digests: dict[str, str]
    """By image: left, left2, right, solo."""
    fuse: int
    """Number of steps, before and after each of which it may end; 0: it lives."""
    dies_with: str = ""
    """Kernel module behind whose arrival it ends."""
    dies_in: str = ""
    """Window of which the fuse counts the steps, instead of all."""

    @property
    def root(self) -> Path:
        return Path(self.directory)


def whereabouts(order: Order) -> set[Window]:
    """Return where the Modules of the generation are that a node has reached."""
    reached = order.root / "generation"
    wanted = generations(order)[int(reached.read_text()) - 1] if reached.exists() else ()
    return windows(order.root, wanted)


def generations(order: Order) -> list[tuple[DesiredModule, ...]]:
    """Return what is desired, one generation after the other."""
    first = _entry(order, "left", "left", parameters=("a=1",), firmware_path=FIRMWARE)
    changed = _entry(order, "left", "left", parameters=("a=2",), firmware_path=FIRMWARE)
    newer = _entry(order, "left", "left2", firmware_path=FIRMWARE)
    right, solo = _entry(order, "right", "right"), _entry(order, "solo", "solo")
    return [(first, solo), (changed, right), (newer, right), (right,), ()]


def _entry(order: Order, name: str, image: str, **modprobe: Any) -> DesiredModule:
    entry = DesiredModule(
        namespace="ns",
        name=name,
        uid=f"uid-{name}",
        kernel_version=KERNEL,
        image=f"{order.registry}/{image}:1",
        image_digest=order.digests[image],
        registry_tls=RegistryTLS(insecure=True),
        modprobe=Modprobe(module_name=name, **modprobe),
    )
    return replace(entry, config_hash=config_hash(entry))


class Fuse:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, steps: int, *, counts: Callable[[], bool] = lambda: True) -> None:
        """`counts` tells whether a step is one of those that are counted."""
        self.count = 0
        self.paused = False
        self._steps = steps
        self._counts = counts

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What stands for the kernel is no step."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def step(self) -> None:
        """Count; does not return from the last step."""
        if not self.paused and self._counts():
            self.count += 1
            if self.count == self._steps:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function with a step before and after it."""

        def stepped(*arguments: Any, **options: Any) -> Any:
            self.step()
            result = function(*arguments, **options)
            self.step()
            return result

        return stepped

    def wire(self) -> None:
        """Count every durable step of this process from now on."""
        for name in DURABLE:
            setattr(os, name, self.around(getattr(os, name)))


class LastingKernel(TmpKernel):
    """Keeps its modules when the daemon dies, and a list of what was done to it."""

    def __init__(self, root: Path, fuse: Fuse, dies_with: str) -> None:
        self._fuse, self._dies_with = fuse, dies_with
        kept = root / "kernel.json"
        rows, needs = json.loads(kept.read_text()) if kept.exists() else ([], {})
        known = [KernelModule(**{**row, "holders": tuple(row["holders"])}) for row in rows]
        super().__init__(root, known)
        self.needs.update({name: tuple(below) for name, below in needs.items()})

    async def run(
        self, argv: Sequence[str], deadline: Deadline, claim: Claim | None = None
    ) -> Completed:
        self._fuse.step()
        note(self.root / "commands.jsonl", {"argv": list(argv), "loaded": sorted(self.rows)})
        return await super().run(argv, deadline, claim)

    def insert(self, name: str, *, state: str = "Live", build: str = "") -> None:
        """Put a module into the kernel; a crash may come before the next one of the same load."""
        with self._fuse.pause():
            super().insert(name, state=state, build=build)
        self._keep()
        if name == self._dies_with:
            os.kill(os.getpid(), signal.SIGKILL)

    def drop(self, name: str) -> None:
        with self._fuse.pause():
            super().drop(name)
        self._keep()

    def _keep(self) -> None:
        rows = [asdict(row) for row in self.rows.values()]
        keep(self.root / "kernel.json", json.dumps([rows, self.needs]))
        self._fuse.step()


def keep(path: Path, text: str) -> None:
    """Write a file of the test's own whole: a thread of the daemon may kill it meanwhile."""
    whole = path.with_suffix(".whole")
    whole.write_text(text)
    _replace(whole, path)


def note(path: Path, value: object) -> None:
    """Append a line to a file of the test's own."""
    with path.open("a") as file:
        file.write(json.dumps(value) + "\n")


class _NoSecrets:
    async def fetch(self, ref: ModuleRef, refresh: bool) -> Sequence[RegistryCredential]:
        raise AssertionError(f"{ref} has no pull secret")


async def live(order: Order, fuse: Fuse) -> None:
    """Bring the node through the generations that are left, as a control plane would."""
    root, clock = order.root, SystemClock()
    kernel = LastingKernel(root, fuse, order.dies_with)
    agent: Agent
    store = ImageStore(
        root / "store",
        credentials=_NoSecrets(),
        desired=lambda: agent.needed(),
        clock=clock,
        platform=Platform(architecture="amd64"),
    )
    journal = Journal(root / "run", BOOT)
    agent = Agent(
        images=store,
        kernel=kernel.kernel(),
        journal=journal,
        clock=clock,
        metrics=Metrics(version="test"),
    )
    fuse.wire()
    await store.open()
    await agent.start()
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(agent.run())
        await _follow(order, agent, kernel)
        running.cancel()
    journal.close()


async def _follow(order: Order, agent: Agent, kernel: LastingKernel) -> None:
    wanted, reached = generations(order), order.root / "generation"
    for number in range(int(reached.read_text()) if reached.exists() else 1, len(wanted) + 1):
        keep(reached, str(number))
        await agent.accept(snapshot(number, wanted[number - 1]))
        while agent.reports.latest.observed_generation != number:
            await asyncio.sleep(0.001)
        said = {m.name: [m.state, m.in_kernel] for m in agent.reports.latest.modules}
        versions = {row.name: row.build for row in kernel.rows.values()}
        firmware = sorted(path.name for path in (order.root / "firmware").glob("*"))
        told = {"generation": number, "kernel": versions, "said": said, "firmware": firmware}
        note(order.root / "settled.jsonl", told)


def _fuse(order: Order) -> Fuse:
    if not order.dies_in:
        return Fuse(order.fuse)
    return Fuse(order.fuse, counts=lambda: Window(order.dies_in) in whereabouts(order))


def _fork(order: Order) -> dict[str, Any]:
    """Run one life in a child; return how it ended."""
    order.root.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        fuse = _fuse(order)
        with (order.root / "daemon.log").open("a", buffering=1) as log:
            logs.configure(as_json=True, stream=log)
            asyncio.run(live(order, fuse))
            note(order.root / "steps.jsonl", fuse.count)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"exit": status}


def main() -> None:
    """Serve orders until stdin ends."""
    for line in sys.stdin:
        print(json.dumps(_fork(Order(**json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
