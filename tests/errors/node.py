"""A node without a daemon, on which all errors are provoked."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from errors.cases import CASES, Case, Files, images
from errors.collected import Collected
from errors.guest import OBSERVATIONS, TRIALS, Observation, Trial
from kmm_common.desired import DesiredModule, Modprobe, ModprobeArgs
from kmm_daemon.kernel import argv
from kmm_daemon.kernel.argv import Place
from kmm_daemon.kernel.moduledir import read_tree, unload_order
from kmm_daemon.kernel.runner import Programs
from kmm_daemon.kernel.workspace import module_directory
from kmm_sandbox import guestexec, network
from kmm_sandbox.network import NodeAddress
from kmm_sandbox.processes import Launcher
from kmm_sandbox.uml import UmlNode, new_machine, shared_memory_fits
from kmm_sandbox.umlkernel import UmlKernel

TESTS = Path(__file__).parents[1]
SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The images of all cases, unpacked where host and node see them, and the programs."""

    kernel: UmlKernel
    directory: Path
    programs: Programs

    def unpack(self, image: str, files: Files) -> None:
        """Write an image's files."""
        for path, content in files.items():
            target = self.place(image).root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def place(self, image: str) -> Place:
        """Return where an image is."""
        root = self.directory / image.replace(" ", "-")
        config = self.directory / "config"
        return Place(root=root, config=config, dir_name="/opt", tree=self.kernel.version)

    def names(self, case: Case) -> tuple[str, ...]:
        """Return the kernel_names whose log lines the daemon would look at."""
        if case.unload:
            return (case.name,)
        return unload_order(read_tree(module_directory(self.place(case.image))), (case.name,))

    def trial(self, case: Case) -> Trial:
        """Return what the node does for a case."""
        # Of a case with no name and no parameters all but the last word is the same for any module.
        load = argv.load(self.programs.modprobe, _module(Case(about="")), self.place(case.image))
        prefix = f"LOAD='{' '.join(load[:-1])}'; "
        return Trial(
            name=case.name,
            before=tuple(("/bin/sh", "-ec", prefix + line) for line in case.before),
            command=(*case.wrapper, *self.command(case)),
            after=tuple(("/bin/sh", "-ec", line) for line in case.after),
        )

    def command(self, case: Case) -> list[str]:
        """Return the daemon's command line for a case."""
        place = self.place(case.image)
        if not case.unload:
            return argv.load(self.programs.modprobe, _module(case), place)
        if case.unload_args:
            return argv.unload(self.programs.modprobe, _module(case), place)
        return argv.remove(self.programs.rmmod, case.name)

    def told(self, case: Case, seen: Observation) -> Collected:
        """Return what is kept of a case: nothing of this run's directories."""
        return Collected(
            about=case.about,
            kernel=self.kernel.version,
            name=case.name,
            names=self.names(case),
            unload=case.unload,
            parameters=case.parameters,
            command=tuple(map(self._plain, (*case.wrapper, *self.command(case)))),
            exit_code=seen.exit_code,
            signal=seen.signal,
            stderr=self._plain(seen.stderr),
            kernel_log=seen.kernel_log,
            row=seen.row,
            users=seen.users,
            modules_disabled=seen.modules_disabled,
        )

    def _plain(self, text: str) -> str:
        return text.replace(str(self.directory), "/run/kmm")


def _module(case: Case) -> DesiredModule:
    args = ModprobeArgs(load=case.load_args, unload=case.unload_args)
    probe = Modprobe(module_name=case.name, parameters=case.parameters, args=args)
    return DesiredModule(
        namespace="default", name="case", uid="", image="", kernel_version="", modprobe=probe
    )


def collect(directory: Path) -> dict[str, Collected]:
    """Provoke every error on a node of its own; by name. Raises SandboxError."""
    kernel = UmlKernel.find()
    with _node(directory) as node:
        files = node.spec.files.directory
        bench = Bench(kernel=kernel, directory=files / "images", programs=Programs.find())
        (bench.directory / "config").mkdir(parents=True)
        for image, content in images(kernel).items():
            bench.unpack(image, content)
        seen = _observe(node, tuple(map(bench.trial, CASES.values())))
        pairs = zip(CASES.items(), seen, strict=True)
        return {name: bench.told(case, one) for (name, case), one in pairs}


def _observe(node: UmlNode, trials: tuple[Trial, ...]) -> tuple[Observation, ...]:
    command = ("env", f"PYTHONPATH={TESTS}", sys.executable, "-m", "errors.guest")
    answer = guestexec.execute(
        node.spec.files.directory,
        node.boot,
        *command,
        stdin=TRIALS.dump_json(trials).decode(),
        seconds=SECONDS,
    )
    return OBSERVATIONS.validate_json(answer.check())


@contextmanager
def _node(directory: Path) -> Iterator[UmlNode]:
    address = NodeAddress(number=1)
    network.make([address])
    launcher = Launcher(logs=directory / "logs", leashed=False)
    node = new_machine(directory, launcher, address, in_shared_memory=shared_memory_fits(1))
    node.switch_on()
    try:
        yield node
    finally:
        node.cut_power()
