"""The simulated kernel as tests want it: it fails on demand, and notes what was run."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmm_common.desired import DesiredModule, Modprobe
from kmm_daemon.builds import BUILD_ID
from kmm_daemon.kernel.claims import Claim
from kmm_daemon.kernel.modprobe import KernelPlaces, ModprobeKernel
from kmm_daemon.kernel.procfs import parse_modules
from kmm_daemon.kernel.runner import Completed, Deadline
from kmm_daemon.values import KernelModule, ReadyImage
from kmm_sandbox.simulated.kernel import PROGRAMS, FileKernel, boot, write_index
from support.modulefile import write_module

KERNEL = "6.1.176"
PID = 812
"""Of every process."""


@dataclass(slots=True, kw_only=True)
class Trouble:
    """What happens instead of a load of one module."""

    completed: Completed = field(default_factory=lambda: Completed(exit_code=1))
    kernel_log: str = ""
    state: str = ""
    """What /proc/modules says of it afterwards; empty: nothing."""


class TmpKernel(FileKernel):
    """`commands` is what was run."""

    def __init__(self, root: Path, rows: Iterable[KernelModule] = ()) -> None:
        boot(root, version=KERNEL, boot_id="boot-1")
        super().__init__(root, rows)
        self.commands: list[list[str]] = []
        self.deadlines: list[Deadline] = []
        self.trouble: dict[str, Trouble] = {}
        self.held: list[int] = []
        """Descriptors that processes have which do not end."""
        self.removals_stuck: set[str] = set()
        for path in ("run", "images"):
            (root / path).mkdir(exist_ok=True)
        self.show()

    def places(self) -> KernelPlaces:
        return KernelPlaces(
            run=self.root / "run",
            state=self.root / "state",
            firmware=self.root / "firmware",
            root=self.root,
        )

    def kernel(self) -> ModprobeKernel:
        return ModprobeKernel(self.places(), self, PROGRAMS, Deadline())

    def build_in(self, *names: str) -> None:
        tree = self.root / "lib/modules" / KERNEL
        tree.mkdir(parents=True)
        lines = (f"kernel/{name}.ko\n" for name in names)
        (tree / "modules.builtin").write_text("".join(lines))

    async def run(
        self, argv: Sequence[str], deadline: Deadline, claim: Claim | None = None
    ) -> Completed:
        self.commands.append(list(argv))
        self.deadlines.append(deadline)
        if claim:
            claim.started(PID)
        completed = await super().run(argv, deadline, claim)
        if claim and completed.stuck:
            self.held.append(os.dup(claim.descriptor))
        return completed

    def end_stuck(self) -> None:
        """Let the processes end that did not."""
        while self.held:
            os.close(self.held.pop())

    def bring(self, name: str, file: Path, parameters: Sequence[str]) -> Completed:
        if trouble := self.trouble.get(name):
            return self._fail(name, trouble)
        return super().bring(name, file, parameters)

    def rmmod(self, name: str) -> Completed:
        if name in self.removals_stuck:
            return Completed(exit_code=None, timed_out=True, stuck=True)
        return super().rmmod(name)

    def _fail(self, name: str, trouble: Trouble) -> Completed:
        with (self.root / "dev/kmsg").open("a") as device:
            device.write(trouble.kernel_log)
        if trouble.state:
            self.insert(name, state=trouble.state)
        return trouble.completed


def image(root: Path, files: dict[str, tuple[str, str]], *, indexed: bool = True) -> ReadyImage:
    """Return an image with modules, given as (depends, builds.build) by name."""
    tree = root / "opt/lib/modules" / KERNEL
    tree.mkdir(parents=True)
    for name, (depends, build) in files.items():
        build_id = build.removeprefix(BUILD_ID) if build.startswith(BUILD_ID) else ""
        srcversion = "" if build_id else build
        write_module(tree, name, depends=depends, srcversion=srcversion, build_id=build_id)
    if indexed:
        write_index(tree)
    return ReadyImage(digest=f"sha256:{root.name}", root=root)


def module(name: str, *, in_tree: tuple[str, ...] = (), **modprobe: Any) -> DesiredModule:
    """Return a Module that is named as its kernel module is, without underscores."""
    probe = Modprobe(module_name=name, **modprobe)
    return DesiredModule(
        namespace="ns",
        name=name.replace("_", "-") or "raw",
        uid="uid",
        kernel_version=KERNEL,
        image="registry/image:v1",
        in_tree_modules_to_remove=in_tree,
        modprobe=probe,
    )


def loaded(text: str) -> set[str]:
    """Return the names in a /proc/modules."""
    return set(parse_modules(text))
