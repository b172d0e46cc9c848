"""The daemon's side of the image worker: starts it when there is work, and never trusts it.

The worker handles every byte that comes from a registry, as a user without rights. What it says is
checked: an image is ready when its tree is in the store, under the name that the daemon expects.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModuleFailure
from kmm_common.errors import KmmError, TerminalError
from kmm_common.logs import log
from kmm_daemon.images.failures import broken
from kmm_daemon.images.messages import (
    LINE_BYTES,
    Answer,
    Ask,
    Credentials,
    Failed,
    Open,
    Prepare,
    Ready,
    Request,
    Unusable,
    Withdraw,
    decode_answer,
    encode_request,
)
from kmm_daemon.images.ready import find_ready
from kmm_daemon.images.secrets import PullSecrets
from kmm_daemon.images.store import Store
from kmm_daemon.values import ReadyImage, StepError

SILENCE_SECONDS = 60.0
"""A worker that says nothing for so long hangs: it says that it is alive every 10 s."""
END_SECONDS = 5.0
PROGRAM = (sys.executable, "-P", "-m", "kmm_daemon.images.serve")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlace:
    """Where images are kept, and as whom they are brought there."""

    directory: Path
    max_bytes: int
    registry_ca: Path | None = None
    user: int | None = None
    """uid and gid of the worker; None: the daemon's own, where it is not root itself."""


@dataclass(slots=True, kw_only=True)
class _Wish:
    """An image that somebody waits for."""

    module: DesiredModule
    done: asyncio.Future[ReadyImage]


@dataclass(slots=True)
class _Life:
    """One worker process."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    problem: str = ""
    """Why it had to be ended."""

    def say(self, request: Request) -> None:
        """Send a message; a worker that has just ended does not get it."""
        if not self.writer.is_closing():
            self.writer.write(encode_request(request))


class ImageWorker:
    """The implementation of values.Images: asks a worker process for what is not here yet."""

    def __init__(
        self,
        place: ImagePlace,
        *,
        secrets: PullSecrets,
        needed: Callable[[], Iterable[DesiredModule]],
        json_logs: bool = False,
        program: Sequence[str] = PROGRAM,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """`needed` returns the entries whose images must stay, those in the kernel included."""
        self._place = place
        self._secrets = secrets
        self._needed = needed
        self._opening = Open(
            directory=place.directory,
            max_bytes=place.max_bytes,
            registry_ca=place.registry_ca,
            json_logs=json_logs,
        )
        self._program = program
        self._silence = silence_seconds
        self._store = Store(place.directory)
        self._numbers = itertools.count(1)
        self._wishes: dict[int, _Wish] = {}
        self._wished = asyncio.Event()
        self._life: _Life | None = None

    async def open(self) -> None:
        """Make the directory, the worker's own. Raises TerminalError."""
        try:
            await asyncio.to_thread(_make, self._place.directory, self._place.user)
        except OSError as error:
            directory = self._place.directory
            message = f"image store {directory}: {error.strerror}; make it a writable directory"
            raise TerminalError(message) from error

    async def prepare(self, module: DesiredModule) -> ReadyImage:
        """Pull if needed, verify and unpack. Raises StepError (Image*, DigestMismatch, DiskFull).

        An image that is here, and named by its digest, costs neither network nor worker.
        """
        with _disk_told(module):
            ready = await asyncio.to_thread(find_ready, self._store, module)
        return ready or await self._ask_for(module)

    async def run(self) -> None:
        """Keep a worker for as long as there is work, until cancelled."""
        while True:
            await self._wished.wait()
            await self._live()
            if all(wish.done.done() for wish in self._wishes.values()):
                self._wished.clear()

    async def _ask_for(self, module: DesiredModule) -> ReadyImage:
        number = next(self._numbers)
        wish = _Wish(module=module, done=asyncio.get_running_loop().create_future())
        self._wishes[number] = wish
        self._tell(number, wish)
        self._wished.set()
        try:
            return await wish.done
        finally:
            del self._wishes[number]
            if wish.done.cancelled() and self._life:
                self._life.say(Withdraw(number=number))

    def _tell(self, number: int, wish: _Wish) -> None:
        if self._life:
            needed = tuple(self._needed())
            self._life.say(Prepare(number=number, module=wish.module, needed=needed))

    async def _live(self) -> None:
        """Run one worker until it ends; what it leaves undone has failed."""
        try:
            life = await _start(self._program, self._place.user)
        except OSError as error:
            self._give_up(f"the image worker cannot start ({error.strerror})")
            return
        self._life = life
        try:
            self._brief(life)
            async with asyncio.TaskGroup() as tasks:
                asking = await self._listen(life, tasks)
                for task in asking:
                    task.cancel()
        finally:
            self._life = None
            await _end(life)
        if why := life.problem:
            log(_logger, logging.WARNING, "image worker ended", why=why)
            self._give_up(why)

    def _brief(self, life: _Life) -> None:
        """Tell a new worker where to work, and all that is waited for."""
        life.say(self._opening)
        for number, wish in self._wishes.items():
            self._tell(number, wish)

    async def _listen(self, life: _Life, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Act on what a worker says until it ends; return the questions it has asked."""
        asking: list[asyncio.Task[None]] = []
        while not life.problem:
            try:
                async with asyncio.timeout(self._silence):
                    line = await life.reader.readline()
                if not line:
                    await _gone(life)
                    break
                answer = decode_answer(line)
            except TimeoutError:
                life.problem = f"the image worker said nothing for {self._silence:g} s"
            except ValueError as error:
                life.problem = f"the image worker said what is no message ({error})"
            else:
                if isinstance(answer, Ask):
                    asking.append(tasks.create_task(self._answer(life, answer), name="secret"))
                else:
                    self._note(life, answer)
        return asking

    def _note(self, life: _Life, answer: Answer) -> None:
        match answer:
            case Ready(number=number, digest=digest):
                self._ready(number, digest)
            case Failed(number=number, failure=failure, retry=retry):
                known = failure.reason in Reason.__members__.values()
                reason = failure.reason if known else Reason.IMAGE_PULL_FAILED
                told = ModuleFailure(reason=reason, message=failure.message)
                self._fail(number, StepError(told, retry=retry))
            case Unusable(message=message):
                life.problem = message
            case _:
                pass

    def _ready(self, number: int, digest: str) -> None:
        wish = self._wishes.get(number)
        if wish is None or wish.done.done():
            return
        try:
            wish.done.set_result(self._brought(wish.module, digest))
        except StepError as error:
            wish.done.set_exception(error)

    def _brought(self, module: DesiredModule, digest: str) -> ReadyImage:
        """Return the image that a worker says it has brought. Raises StepError."""
        with _disk_told(module):
            ready = find_ready(self._store, replace(module, image_digest=digest))
        if ready is None or module.image_digest not in ("", digest):
            raise broken(module, "the image worker did not bring it")
        return ready

    def _fail(self, number: int, error: StepError) -> None:
        wish = self._wishes.get(number)
        if wish and not wish.done.done():
            wish.done.set_exception(error)

    def _give_up(self, why: str) -> None:
        for number, wish in self._wishes.items():
            self._fail(number, broken(wish.module, why))

    async def _answer(self, life: _Life, ask: Ask) -> None:
        """Give a worker the pull secret of a Module that it works for, and of no other."""
        if all(wish.module.ref != ask.ref for wish in self._wishes.values()):
            life.say(Credentials(number=ask.number, error="not asked for"))
            return
        try:
            given = tuple(await self._secrets.fetch(ask.ref, ask.refresh))
        except KmmError as error:
            life.say(Credentials(number=ask.number, error=str(error)))
        else:
            life.say(Credentials(number=ask.number, credentials=given))


async def _start(program: Sequence[str], user: int | None) -> _Life:
    """Start a worker that logs where the daemon does. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        *program,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd="/",
        # Ctrl-C at a terminal is for the daemon.
        start_new_session=True,
        limit=LINE_BYTES,
        user=user,
        group=user,
        extra_groups=None if user is None else (),
    )
    reader = cast(asyncio.StreamReader, process.stdout)
    return _Life(process, reader, cast(asyncio.StreamWriter, process.stdin))


async def _gone(life: _Life) -> None:
    """Wait for the end of a worker that has hung up, and say what was wrong with it."""
    code = await _exit_code(life)
    if code is None:
        life.problem = "the image worker hung up"
    elif code < 0:
        life.problem = f"the image worker was ended by signal {-code}"
    elif code > 0:
        life.problem = f"the image worker ended with exit code {code}"


async def _exit_code(life: _Life) -> int | None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            await life.process.wait()
    return life.process.returncode


async def _end(life: _Life) -> None:
    """End a worker at once; what it leaves half done is swept by the next one."""
    life.writer.close()
    if life.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            life.process.kill()
        await _exit_code(life)


def _make(directory: Path, user: int | None) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if user is None or directory.stat().st_uid == user:
        return
    # Of a daemon that had another user, or none.
    for parent, names, files in os.walk(directory):
        for name in (*names, *files):
            os.chown(Path(parent, name), user, user, follow_symlinks=False)
    os.chown(directory, user, user)


@contextlib.contextmanager
def _disk_told(module: DesiredModule) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = f"the image store's disk fails ({error.strerror})"
        raise broken(module, why) from error
