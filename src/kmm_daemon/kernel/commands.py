"""modprobe and rmmod with a deadline and an ear on the kernel log; one at a time for a Module."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from kmm_common.api.names import Reason
from kmm_common.desired import ModuleFailure, ModuleRef
from kmm_common.logs import log
from kmm_daemon.kernel import argv, classify, kmsg, outcome, procfs, usage
from kmm_daemon.kernel.claims import Claims
from kmm_daemon.kernel.classify import Attempt
from kmm_daemon.kernel.kmsg import KernelLog
from kmm_daemon.kernel.procfs import KernelReader
from kmm_daemon.kernel.runner import Deadline, Programs, Runner
from kmm_daemon.unended import still_running
from kmm_daemon.values import Process, StepError

logger = logging.getLogger(__name__)


class Commands:
    """What the daemon has done to the kernel on behalf of Modules."""

    def __init__(
        self,
        *,
        reader: KernelReader,
        runner: Runner,
        programs: Programs,
        deadline: Deadline,
        claims: Claims,
        root: Path,
    ) -> None:
        self._rmmod = programs.rmmod
        self._reader = reader
        self._runner = runner
        self._deadline = deadline
        self._root = root
        self._claims = claims

    def limit(self, deadline: Deadline) -> None:
        """Give programs that are started from now on another deadline."""
        self._deadline = deadline

    async def run(self, ref: ModuleRef, command: list[str], names: Iterable[str]) -> Attempt:
        """Run a program and listen to what the kernel says about modules of these names."""
        self.refuse_beside_another(ref)
        wanted = tuple(names)
        touched = tuple(dict.fromkeys((*wanted, *argv.names_in(command))))
        process = Process(ref=ref, program=Path(command[0]).name, names=touched)
        with (
            self._claims.made(process) as claim,
            KernelLog.from_now(self._root / "dev/kmsg") as listening,
        ):
            completed = await self._runner.run(command, self._deadline, claim)
            lines = kmsg.about(listening.records(), wanted)
            readable = listening.readable
        return Attempt(
            name="",
            names=touched,
            completed=completed,
            unended=claim.process if completed.stuck else None,
            kernel_log=lines,
            log_readable=readable,
            kernel=(await self._reader.view()).kernel_version,
            modules_disabled=await asyncio.to_thread(self._reader.files.modules_disabled),
        )

    def refuse_beside_another(self, ref: ModuleRef) -> None:
        """Raise StepError while a process that was started for this Module has not ended."""
        process = self._claims.alive().get(ref)
        if process:
            raise StepError(still_running(process))

    async def refuse_in_use(self, names: Iterable[str], group: Iterable[str]) -> None:
        """Raise StepError, before anything is touched, for what could only be done in part."""
        row = outcome.stays(names, group, await self._reader.modules())
        if row:
            users = await asyncio.to_thread(usage.users, row.name, self._root)
            failure = ModuleFailure(reason=Reason.IN_USE, message=classify.in_use(row, users))
            raise StepError(failure)

    async def remove(self, ref: ModuleRef, name: str) -> None:
        """Take one module out by name, nothing it stands on, and see it gone. Raises StepError."""
        attempt = await self.run(ref, argv.remove(self._rmmod, name), (name,))
        if name in await self._reader.modules():
            raise await self.not_removed(attempt, name)

    async def remove_unused(self, ref: ModuleRef, names: Iterable[str]) -> None:
        """Take out what came along and nobody uses; where somebody is quicker, it stays.

        Raises StepError only where a removal does not end.
        """
        for name in names:
            if not outcome.removable(name, await self._reader.modules()):
                continue
            try:
                await self.remove(ref, name)
            except StepError as error:
                why = error.failure.reason
                log(logger, logging.WARNING, "module left", ref=str(ref), module=name, why=why)
                if why in (Reason.TIMED_OUT, Reason.STILL_RUNNING):
                    raise

    async def not_removed(self, attempt: Attempt, name: str) -> StepError:
        """Return why a module is still there."""
        attempt = replace(attempt, name=name)
        text = await asyncio.to_thread(self._reader.files.modules_text)
        if procfs.permanent(text, name):
            message = f"{name} has no exit function: only a reboot takes it out of the kernel"
            return StepError(ModuleFailure(reason=Reason.IN_USE, message=message))
        row = procfs.parse_modules(text).get(name)
        users = await asyncio.to_thread(usage.users, name, self._root) if row else ()
        return classify.unload_failure(attempt, row, users)
