"""The kernel of the node, through modprobe and rmmod: the implementation of values.Kernel."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModuleFailure, ModuleRef
from kmm_common.logs import log
from kmm_daemon.kernel import argv, classify, kmsg, outcome, usage
from kmm_daemon.kernel.classify import Attempt
from kmm_daemon.kernel.firmware import Firmware
from kmm_daemon.kernel.kmsg import KernelLog
from kmm_daemon.kernel.ledgerfile import LedgerFile
from kmm_daemon.kernel.moduledir import (
    ModuleTree,
    asked_for,
    find_directory,
    named_by,
    read_tree,
    unload_order,
)
from kmm_daemon.kernel.outcome import Contents, Rows
from kmm_daemon.kernel.procfs import KernelFiles, KernelReader
from kmm_daemon.kernel.runner import Completed, Deadline, Runner, Running, find_program
from kmm_daemon.kernel.workspace import Workspaces, module_directory
from kmm_daemon.values import KernelView, LoadedRecord, ReadyImage, StepError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPlaces:
    """Where things are on the node, as the daemon sees them."""

    run: Path = Path("/run/kmm")
    """Does not outlive the boot."""
    state: Path = Path("/var/lib/kmm")
    """Outlives it."""
    firmware: Path = Path("/var/lib/firmware")
    """The same path on the host and in the daemon."""
    module_trees: tuple[Path, ...] = (Path("/lib/modules"), Path("/usr/lib/modules"))
    """Where the host keeps <kernel>/modules.builtin."""
    root: Path = Path("/")
    """Holds proc, sys and dev."""


class ModprobeKernel:
    """Loads and unloads kernel modules, and tells what the kernel says about it."""

    def __init__(self, places: KernelPlaces, runner: Runner, deadline: Deadline) -> None:
        """Raises TerminalError where modprobe or rmmod is not installed."""
        self._modprobe = find_program("modprobe")
        self._rmmod = find_program("rmmod")
        self._files = KernelFiles(root=places.root, module_trees=places.module_trees)
        self._reader = KernelReader(self._files)
        self._workspaces = Workspaces(places.run / "modules", runner)
        self._firmware = Firmware(
            directory=places.firmware,
            ledger=LedgerFile(places.state / "firmware.json"),
            search_path=self._files.sys_module / "firmware_class/parameters/path",
        )
        self._log_device = places.root / "dev/kmsg"
        self._root = places.root
        self._runner = runner
        self._deadline = deadline
        self._stuck: dict[ModuleRef, Running] = {}

    async def view(self) -> KernelView:
        """Return the truth of this moment, from /proc and /sys. Raises TransientError."""
        return await self._reader.view()

    async def inspect(self, module: DesiredModule, image: ReadyImage) -> Mapping[str, str]:
        """Return srcversion by kernel_name for the Module's kernel modules in the image."""
        return (await self._contents(module, image, await self.view())).srcversions

    async def keep_firmware_of(self, desired: frozenset[ModuleRef]) -> None:
        """Remove the firmware that Modules of an earlier boot have left. Raises StepError."""
        await self._firmware.keep_only(desired, (await self.view()).boot_id)

    async def load(self, module: DesiredModule, image: ReadyImage) -> LoadedRecord:
        """Make room, copy firmware, run modprobe, check. Raises StepError.

        A load that fails leaves nothing behind that it brought.
        """
        self._refuse_while_stuck(module.ref)
        view = await self.view()
        contents = await self._contents(module, image, view)
        module = replace(module, image_digest=image.digest)
        if outcome.needs_nothing(contents, view):
            log(logger, logging.INFO, "module is built in, nothing to load", ref=str(module.ref))
            return outcome.record(module, (), view.modules)
        shipment = await self._firmware.scan(module, image)
        await self._firmware.check(shipment, view.boot_id)
        place = await self._workspaces.make(module, image, view.kernel_version)
        await self._make_room(module, contents)
        try:
            await self._firmware.install(shipment, view.boot_id)
            return await self._insert(module, contents, place)
        except StepError as error:
            await self._leave_nothing(module, error)
            raise

    async def unload(self, record: LoadedRecord, keep: frozenset[str]) -> None:
        """Take out what a Module has brought, but `keep`, and its firmware. Raises StepError."""
        module = record.module
        self._refuse_while_stuck(module.ref)
        await self._unload_as_told(record, keep)
        asked = asked_for(module) or record.kernel_modules[:1]
        for name in record.kernel_modules:
            rows = await self._reader.modules()
            if name in keep or name not in rows:
                continue
            if name in asked:
                await self._remove(module.ref, name)
            elif outcome.removable(name, rows):
                await self._remove_along(module.ref, name)
        await self._firmware.remove(frozenset((module.ref,)), (await self.view()).boot_id)
        await asyncio.to_thread(self._workspaces.remove, module.ref)

    async def _contents(
        self, module: DesiredModule, image: ReadyImage, view: KernelView
    ) -> Contents:
        """Return what the image brings; StepError says what makes it unusable."""
        _raise(argv.invalid(module))
        contents = await asyncio.to_thread(_read_contents, module, image, view)
        _raise(outcome.built_in(module, contents, view))
        return contents

    async def _make_room(self, module: DesiredModule, contents: Contents) -> None:
        """Take the in-tree modules out, all or none."""
        rows = await self._reader.modules()
        names = outcome.in_the_way(module, contents, rows)
        if row := outcome.holding(names, rows):
            users = await asyncio.to_thread(usage.users, row.name, self._root)
            message = f"inTreeModulesToRemove: {classify.in_use(row, users)}"
            raise StepError(ModuleFailure(reason=Reason.IN_USE, message=message))
        for name in names:
            log(logger, logging.INFO, "in-tree module removed", ref=str(module.ref), module=name)
            await self._remove(module.ref, name)
        if contents.own and contents.own in await self._reader.modules():
            message = f"{contents.own} is in the kernel already: unload it, or name it in "
            message += "inTreeModulesToRemove"
            raise StepError(ModuleFailure(reason=Reason.LOADED_FROM_ELSEWHERE, message=message))

    async def _insert(
        self, module: DesiredModule, contents: Contents, place: argv.Place
    ) -> LoadedRecord:
        before = await self._reader.modules()
        command = argv.load(self._modprobe, module, place)
        attempt = await self._attempt(module.ref, command, contents.unload_order)
        attempt = replace(
            attempt,
            name=contents.own,
            parameters=module.modprobe.parameters,
            vermagic=contents.vermagic,
        )
        after = await self.view()
        self._tell(module, contents, attempt, before)
        failed = not attempt.completed.ok and not outcome.is_live(contents, before, after.modules)
        wrong = classify.load_failure(attempt) if failed else _as_error(contents, after, attempt)
        names = outcome.came(contents, before, after.modules)
        if wrong is None:
            return outcome.record(module, names, after.modules)
        if not attempt.completed.stuck:
            await self._roll_back(module.ref, names)
        raise wrong

    async def _roll_back(self, ref: ModuleRef, names: Iterable[str]) -> None:
        for name in names:
            if outcome.removable(name, await self._reader.modules()):
                await self._remove_along(ref, name)

    async def _leave_nothing(self, module: DesiredModule, error: StepError) -> None:
        """Take files back, unless an init that is still running may need them."""
        if error.failure.reason == Reason.TIMED_OUT:
            return
        boot_id = (await self.view()).boot_id
        await self._firmware.remove(frozenset((module.ref,)), boot_id)
        await asyncio.to_thread(self._workspaces.remove, module.ref)

    def _tell(
        self, module: DesiredModule, contents: Contents, attempt: Attempt, before: Rows
    ) -> None:
        """Log what the user should know of a load that may well have succeeded."""
        ref = str(module.ref)
        for name in classify.ignored_parameters(attempt.kernel_log):
            log(logger, logging.WARNING, "parameter unknown to the module", ref=ref, parameter=name)
        for name in outcome.foreign_below(contents, before):
            log(logger, logging.WARNING, "module stands on another build", ref=ref, module=name)

    async def _unload_as_told(self, record: LoadedRecord, keep: frozenset[str]) -> None:
        """Run modprobe where the Module has arguments of its own for it, and nothing else goes."""
        module, probe = record.module, record.module.modprobe
        place = await asyncio.to_thread(self._workspaces.find, module)
        if not (probe.args.unload or probe.raw_args.unload) or place is None:
            return
        rows = await self._reader.modules()
        tree = await asyncio.to_thread(read_tree, module_directory(place))
        asked = asked_for(module) or named_by(probe.raw_args.unload, tree)
        if keep & set(asked) or not outcome.only_ours(asked, tree, record, rows):
            log(logger, logging.WARNING, "removed by name, others need a part", ref=str(module.ref))
            return
        command = argv.unload(self._modprobe, module, place)
        attempt = await self._attempt(module.ref, command, asked)
        if not attempt.completed.ok:
            await self._refuse_removal(attempt, asked[0] if asked else "")

    async def _remove(self, ref: ModuleRef, name: str) -> None:
        """Take one module out by name, and see that it is gone. Raises StepError."""
        attempt = await self._attempt(ref, argv.remove(self._rmmod, name), (name,))
        if name in await self._reader.modules():
            await self._refuse_removal(attempt, name)

    async def _remove_along(self, ref: ModuleRef, name: str) -> None:
        """Take out what came along; where somebody is quicker to use it, it stays."""
        try:
            await self._remove(ref, name)
        except StepError as error:
            log(logger, logging.WARNING, "module left in the kernel", ref=str(ref), module=name)
            if error.failure.reason == Reason.TIMED_OUT:
                raise

    async def _refuse_removal(self, attempt: Attempt, name: str) -> None:
        rows = await self._reader.modules()
        row = rows.get(name)
        users = await asyncio.to_thread(usage.users, name, self._root) if row else ()
        raise classify.unload_failure(replace(attempt, name=name), row, users)

    async def _attempt(self, ref: ModuleRef, command: list[str], names: Iterable[str]) -> Attempt:
        """Run a program and listen to the kernel meanwhile."""
        with KernelLog.from_now(self._log_device) as listening:
            completed = await self._runner.run(command, self._deadline)
            lines = kmsg.about(listening.records(), names)
            readable = listening.readable
        if completed.stuck:
            self._stuck[ref] = completed.stuck
        return Attempt(
            name="",
            completed=completed,
            kernel_log=lines,
            log_readable=readable,
            kernel=(await self.view()).kernel_version,
            modules_disabled=await asyncio.to_thread(self._files.modules_disabled),
        )

    def _refuse_while_stuck(self, ref: ModuleRef) -> None:
        """Never start a second process behind one that does not end."""
        running = self._stuck.get(ref)
        if running is None:
            return
        if running.ended:
            del self._stuck[ref]
            return
        completed = Completed(exit_code=None, timed_out=True, stuck=running)
        raise classify.load_failure(Attempt(name="", completed=completed))


def _read_contents(module: DesiredModule, image: ReadyImage, view: KernelView) -> Contents:
    directory = find_directory(image, module.modprobe.dir_name, view.kernel_version)
    tree = read_tree(directory)
    asked = asked_for(module)
    if failure := outcome.unavailable(asked, tree, view):
        # Another Module may still bring what the own one has to wait for.
        raise StepError(failure, retry=asked[0] in tree.files)
    named = asked or named_by(module.modprobe.raw_args.load, tree)
    return _described(tree, asked, unload_order(tree, named))


def _described(tree: ModuleTree, asked: tuple[str, ...], order: tuple[str, ...]) -> Contents:
    infos = {name: tree.info(name) for name in order if name in tree.files}
    own = infos.get(asked[0]) if asked else None
    return Contents(
        tree=tree,
        asked=asked,
        unload_order=order,
        srcversions={name: info.srcversion for name, info in infos.items()},
        vermagic=own.vermagic if own else "",
    )


def _as_error(contents: Contents, after: KernelView, attempt: Attempt) -> StepError | None:
    """Return why a load that modprobe calls a success is none."""
    failure = outcome.missing(contents, after)
    if failure is None:
        return None
    if failure.reason == Reason.VANISHED and attempt.refused[1]:
        return classify.load_failure(attempt)
    return StepError(replace(failure, kernel_log=attempt.kernel_log))


def _raise(failure: ModuleFailure | None) -> None:
    if failure:
        raise StepError(failure, retry=False)
