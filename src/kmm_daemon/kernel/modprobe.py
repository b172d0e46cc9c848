"""The kernel of the node, through modprobe and rmmod: the implementation of values.Kernel."""

import asyncio
import errno
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModuleFailure, ModuleRef
from kmm_common.errors import TransientError
from kmm_common.logs import log
from kmm_daemon import builds, cutshort
from kmm_daemon.kernel import argv, claims, classify, outcome, symbols, vermagic
from kmm_daemon.kernel.claims import Claims
from kmm_daemon.kernel.classify import Attempt
from kmm_daemon.kernel.commands import Commands
from kmm_daemon.kernel.contents import Contents, read_contents
from kmm_daemon.kernel.firmware import Firmware, Shipment
from kmm_daemon.kernel.ledgerfile import LedgerFile
from kmm_daemon.kernel.moduledir import asked_for, named_by, read_tree
from kmm_daemon.kernel.outcome import Rows
from kmm_daemon.kernel.procfs import KernelFiles, KernelReader
from kmm_daemon.kernel.runner import Deadline, Programs, Runner
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
    firmware: Path
    """The same path on the host and in the daemon."""
    module_trees: tuple[Path, ...] = (Path("/lib/modules"), Path("/usr/lib/modules"))
    """Where the host keeps <kernel>/modules.builtin, modules.symbols and modules of its own."""
    root: Path = Path("/")
    """Holds proc, sys and dev."""


class ModprobeKernel:
    """Loads and unloads kernel modules, and tells what the kernel says about it.

    Whether modprobe succeeded is read from /proc/modules, never from its exit code alone.
    """

    def __init__(
        self, places: KernelPlaces, runner: Runner, programs: Programs, deadline: Deadline
    ) -> None:
        self._modprobe = programs.modprobe
        self._claims = Claims(places.run / claims.NAME)
        files = KernelFiles(root=places.root, module_trees=places.module_trees)
        self._reader = KernelReader(files)
        self._commands = Commands(
            reader=self._reader,
            runner=runner,
            programs=programs,
            deadline=deadline,
            claims=self._claims,
            root=places.root,
        )
        self._workspaces = Workspaces(places.run / "modules", files, runner, programs.depmod)
        self._firmware = Firmware(
            directory=places.firmware,
            ledger=LedgerFile(places.state / "firmware.json"),
            search_path=files.sys_module / "firmware_class/parameters/path",
        )

    def limit(self, deadline: Deadline) -> None:
        """Give programs that are started from now on another deadline."""
        self._commands.limit(deadline)

    async def view(self, parameters_of: frozenset[str] = frozenset()) -> KernelView:
        """Return the truth of this moment, from /proc and /sys. Raises TransientError."""
        try:
            return await asyncio.to_thread(self._look, parameters_of)
        except OSError as error:
            where = error.filename or "the node"
            raise TransientError(f"{where}: {error.strerror or error}") from error

    def _look(self, parameters_of: frozenset[str]) -> KernelView:
        # The processes first: what ends after that is noticed at the next look.
        at_work = self._claims.alive()
        return replace(self._reader.look(parameters_of), at_work=at_work)

    async def inspect(self, module: DesiredModule, image: ReadyImage) -> Mapping[str, str]:
        """Return builds.build by kernel_name for the Module's kernel modules in the image."""
        with _failures_told():
            return (await self._contents(module, image, await self.view())).builds

    async def keep_firmware_of(self, refs: frozenset[ModuleRef]) -> None:
        """Remove the firmware on the host that only other Modules have left. Raises StepError."""
        with _failures_told():
            await self._firmware.keep_only(refs, (await self.view()).boot_id)

    async def load(self, module: DesiredModule, image: ReadyImage) -> LoadedRecord:
        """Make room, copy firmware, run modprobe, check. Raises StepError.

        A load that fails leaves nothing behind that it brought; in-tree modules that made room
        stay out.
        """
        with _failures_told():
            return await self._load(module, image)

    async def adopt(self, module: DesiredModule, image: ReadyImage) -> None:
        """Bring the firmware of a module that is in the kernel already. Raises StepError."""
        with _failures_told():
            shipment = await self._firmware.scan(module, image)
            await self._firmware.install(shipment, (await self.view()).boot_id)

    async def check(self, module: DesiredModule, image: ReadyImage, going: frozenset[str]) -> None:
        """Raise StepError for what a load would refuse; nothing is touched.

        `going` are kernel_names that leave the kernel before the load.
        """
        with _failures_told():
            view = await self.view()
            contents = await self._contents(module, image, view)
            await self._refuse_early(module, image, contents, view, going)

    async def unload(self, record: LoadedRecord, keep: frozenset[str]) -> None:
        """Take out what a Module has brought, but `keep`, and its firmware. Raises StepError.

        What the Module asks for by name has to go; what came along with it stays while it is used.
        """
        with _failures_told():
            await self._unload(record, keep)

    async def _load(self, module: DesiredModule, image: ReadyImage) -> LoadedRecord:
        view = await self.view()
        contents = await self._contents(module, image, view)
        module = replace(module, image_digest=image.digest)
        if outcome.needs_nothing(contents, view):
            log(logger, logging.INFO, "module is built in, nothing to load", ref=str(module.ref))
            return outcome.record(module, (), view.modules)
        shipment = await self._refuse_early(module, image, contents, view)
        place = await self._workspaces.make(module, image, view.kernel_version)
        await self._make_room(module, contents)
        try:
            with _failures_told():
                await self._firmware.install(shipment, view.boot_id)
                return await self._insert(module, contents, place)
        except StepError as error:
            # An init that is still running may yet ask for its firmware.
            if error.reason not in (Reason.TIMED_OUT, Reason.STILL_RUNNING):
                await self._forget(module.ref, view.boot_id)
            raise

    async def _unload(self, record: LoadedRecord, keep: frozenset[str]) -> None:
        ref = record.module.ref
        asked = asked_for(record.module) or record.kernel_modules[:1]
        going = [name for name in record.kernel_modules if name not in keep]
        self._commands.refuse_beside_another(ref)
        await self._commands.refuse_in_use([name for name in going if name in asked], going)
        await self._unload_as_told(record.module, frozenset(going))
        for name in going:
            if name not in asked:
                await self._commands.remove_unused(ref, (name,))
            elif name in await self._reader.modules():
                await self._commands.remove(ref, name)
        await self._forget(ref, (await self.view()).boot_id)

    async def _refuse_early(
        self,
        module: DesiredModule,
        image: ReadyImage,
        contents: Contents,
        view: KernelView,
        going: frozenset[str] = frozenset(),
    ) -> Shipment:
        """Return the image's firmware; raise StepError if it, or the kernel, forbids a load.

        Nobody brings back what made room for a load: what can be known is asked before.
        """
        self._commands.refuse_beside_another(module.ref)
        staying = {name: row for name, row in view.modules.items() if name not in going}
        names = outcome.in_the_way(module, contents, staying)
        _raise(vermagic.refusal(module, contents, view, staying.keys() - set(names)))
        shipment = await self._firmware.scan(module, image)
        await self._firmware.check(shipment, view.boot_id)
        await self._commands.refuse_in_use(names, going.union(names))
        return shipment

    async def _contents(
        self, module: DesiredModule, image: ReadyImage, view: KernelView
    ) -> Contents:
        """Return what the image brings; StepError says what makes it unusable."""
        _raise(argv.invalid(module))
        host = await asyncio.to_thread(self._reader.files.host_modules)
        contents = await asyncio.to_thread(read_contents, module, image, view, host)
        _raise(outcome.built_in(module, contents, view))
        return contents

    async def _make_room(self, module: DesiredModule, contents: Contents) -> None:
        """Take the in-tree modules out, all or none."""
        names = outcome.in_the_way(module, contents, await self._reader.modules())
        await self._commands.refuse_in_use(names, names)
        for name in names:
            log(logger, logging.INFO, "in-tree module removed", ref=str(module.ref), module=name)
            await self._commands.remove(module.ref, name)
        _refuse_another(contents, await self._reader.modules())

    async def _insert(
        self, module: DesiredModule, contents: Contents, place: argv.Place
    ) -> LoadedRecord:
        before = await self._reader.modules()
        # Once more: udev may have been quicker, and modprobe would call that a success.
        _refuse_another(contents, before)
        command = argv.load(self._modprobe, module, place)
        attempt = replace(
            await self._commands.run(module.ref, command, contents.unload_order),
            name=contents.own,
            parameters=module.modprobe.parameters,
            vermagic=contents.vermagics.get(contents.own, ""),
            files=contents.tree.files,
        )
        attempt = await self._with_exporters(attempt, place)
        after = await self.view()
        brought = outcome.came(contents, before, after.modules)
        wrong = _what_went_wrong(contents, attempt, before, after)
        if wrong is None:
            ignored = classify.ignored_parameters(attempt.kernel_log)
            warning = outcome.warning(contents, ignored, before, _cut_short(attempt))
            if warning:
                log(
                    logger,
                    logging.WARNING,
                    "loaded with a warning",
                    ref=str(module.ref),
                    said=warning,
                )
            return outcome.record(module, brought, after.modules, warning)
        if not attempt.completed.stuck:
            await self._commands.remove_unused(module.ref, brought)
        raise wrong

    async def _with_exporters(self, attempt: Attempt, place: argv.Place) -> Attempt:
        """Return an attempt that knows who has the symbols which were missing."""
        lack = symbols.missing(attempt.kernel_log)
        if lack is None:
            return attempt
        host = self._reader.files.host_modules()
        image = module_directory(place)
        known = await asyncio.to_thread(symbols.find, lack.symbols, image, host)
        return replace(attempt, exporters=known)

    async def _unload_as_told(self, module: DesiredModule, going: frozenset[str]) -> None:
        """Run modprobe where the Module has arguments of its own for it, and nothing else goes."""
        probe = module.modprobe
        place = await asyncio.to_thread(self._workspaces.find, module)
        if not (probe.args.unload or probe.raw_args.unload) or place is None:
            return
        tree = await asyncio.to_thread(read_tree, module_directory(place))
        asked = asked_for(module) or named_by(probe.raw_args.unload, tree)
        if not outcome.takes_only(asked, tree, going, await self._reader.modules()):
            ref = str(module.ref)
            log(logger, logging.WARNING, "unload arguments not used, others stay", ref=ref)
            return
        command = argv.unload(self._modprobe, module, place)
        attempt = await self._commands.run(module.ref, command, asked)
        if not attempt.completed.ok:
            raise await self._commands.not_removed(attempt, asked[0] if asked else "")

    async def _forget(self, ref: ModuleRef, boot_id: str) -> None:
        await self._firmware.remove(frozenset((ref,)), boot_id)
        await asyncio.to_thread(self._workspaces.remove, ref)


def _refuse_another(contents: Contents, rows: Rows) -> None:
    """Raise StepError if the Module's own kernel module is there, which we did not load."""
    if contents.own and contents.own in rows:
        message = f"{contents.own} is in the kernel already: {builds.unloading(contents.own)}"
        raise StepError(ModuleFailure(reason=Reason.LOADED_FROM_ELSEWHERE, message=message))


def _what_went_wrong(
    contents: Contents, attempt: Attempt, before: Rows, after: KernelView
) -> StepError | None:
    """Return why the kernel does not have what it should; None if it has, whatever was said."""
    if not attempt.completed.ok and not outcome.is_live(contents, before, after.modules):
        return classify.load_failure(attempt)
    failure = outcome.missing(contents, after)
    if failure is None:
        return None
    # modprobe is silent about what it loads along; the kernel log is not.
    told = classify.load_failure(attempt)
    if failure.reason == Reason.VANISHED and told.failure.reason != Reason.MODPROBE_FAILED:
        return told
    return StepError(replace(failure, kernel_log=attempt.kernel_log))


def _cut_short(attempt: Attempt) -> str:
    """Return what is to be known of a module that is Live, whatever became of modprobe."""
    if attempt.completed.ok:
        return ""
    return cutshort.warning(classify.load_failure(attempt).failure)


@contextmanager
def _failures_told() -> Iterator[None]:
    """Make an error of the node itself one that the user is told, and that is tried again."""
    try:
        yield
    except TransientError as error:
        failure = ModuleFailure(reason=Reason.MODPROBE_FAILED, message=str(error))
        raise StepError(failure) from error
    except OSError as error:
        message = f"{error.filename or 'the node'}: {error.strerror or error}"
        reason = Reason.DISK_FULL if error.errno == errno.ENOSPC else Reason.MODPROBE_FAILED
        raise StepError(ModuleFailure(reason=reason, message=message)) from error


def _raise(failure: ModuleFailure | None) -> None:
    if failure:
        raise StepError(failure, retry=False)
