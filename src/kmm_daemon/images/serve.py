"""The image worker: a process without rights that pulls and unpacks what the daemon asks for."""

import asyncio
import itertools
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence

from kmm_common import logs
from kmm_common.clock import Clock, SystemClock
from kmm_common.desired import DesiredModule, ModuleRef
from kmm_common.errors import TerminalError, TransientError
from kmm_common.oci.credentials import RegistryCredential
from kmm_daemon.images.confine import confine
from kmm_daemon.images.failures import broken
from kmm_daemon.images.messages import (
    LINE_BYTES,
    Alive,
    Answer,
    Ask,
    Credentials,
    Failed,
    MessageError,
    Open,
    Prepare,
    Ready,
    Request,
    Unusable,
    Withdraw,
    decode_request,
    encode_answer,
)
from kmm_daemon.images.source import ImageStore
from kmm_daemon.values import StepError

IDLE_SECONDS = 60.0
"""A worker without work ends: an idle node keeps no memory for it."""
ALIVE_SECONDS = 10.0

_logger = logging.getLogger(__name__)


class Desk:
    """Where the worker's answers go out, and those to its own questions come in."""

    def __init__(self, writer: asyncio.WriteTransport) -> None:
        self._writer = writer
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Credentials]] = {}

    def say(self, answer: Answer) -> None:
        """Send a message to the daemon."""
        self._writer.write(encode_answer(answer))

    async def fetch(self, ref: ModuleRef, refresh: bool) -> Sequence[RegistryCredential]:
        """Return the credentials of a Module's pull secret. Raises TransientError."""
        number = next(self._numbers)
        answered: asyncio.Future[Credentials] = asyncio.get_running_loop().create_future()
        self._asked[number] = answered
        try:
            self.say(Ask(number=number, ref=ref, refresh=refresh))
            given = await answered
        finally:
            del self._asked[number]
        if given.error:
            raise TransientError(given.error)
        return given.credentials

    def answered(self, given: Credentials) -> None:
        """Hand the daemon's answer to who asked, if he still waits."""
        waiting = self._asked.get(given.number)
        if waiting and not waiting.done():
            waiting.set_result(given)


class Worker:
    """Carries out requests, each in a task of its own."""

    def __init__(self, opening: Open, desk: Desk, tasks: asyncio.TaskGroup) -> None:
        self._desk = desk
        self._tasks = tasks
        self._running: dict[int, asyncio.Task[None]] = {}
        self._needed: tuple[DesiredModule, ...] = ()
        self._store = ImageStore(
            opening.directory,
            credentials=desk,
            desired=lambda: self._needed,
            clock=SystemClock(),
            max_bytes=opening.max_bytes,
            ca_file=opening.registry_ca,
        )

    @property
    def busy(self) -> bool:
        """True while it works on something."""
        return bool(self._running)

    async def open(self) -> None:
        """Begin to use the directory. Raises TerminalError."""
        await self._store.open()

    def handle(self, request: Request) -> None:
        """Begin or end what the daemon asks for. Raises MessageError."""
        match request:
            case Prepare(number=number, needed=needed):
                self._needed = needed
                task = self._tasks.create_task(self._prepare(request), name=f"prepare {number}")
                self._running[number] = task
                task.add_done_callback(lambda _: self._running.pop(number, None))
            case Withdraw(number=number):
                if number in self._running:
                    self._running[number].cancel()
            case Credentials():
                self._desk.answered(request)
            case Open():
                raise MessageError("opened twice")

    def leave(self) -> None:
        """Give up all work."""
        for task in self._running.values():
            task.cancel()

    async def _prepare(self, request: Prepare) -> None:
        number, module = request.number, request.module
        try:
            image = await self._store.prepare(module)
        except StepError as error:
            self._desk.say(Failed(number=number, failure=error.failure, retry=error.retry))
        except Exception as error:
            _logger.exception("image worker broke")
            told = broken(module, f"unexpected {type(error).__name__} in the image worker")
            self._desk.say(Failed(number=number, failure=told.failure, retry=True))
        else:
            self._desk.say(Ready(number=number, digest=image.digest))


async def serve(
    reader: asyncio.StreamReader, desk: Desk, *, idle_seconds: float = IDLE_SECONDS
) -> None:
    """Work until the daemon is gone, or there was nothing to do for a while."""
    opening = decode_request(await reader.readline())
    if not isinstance(opening, Open):
        raise MessageError("not opened")
    logs.configure(as_json=opening.json_logs)
    async with asyncio.TaskGroup() as tasks:
        worker = Worker(opening, desk, tasks)
        try:
            await worker.open()
        except TerminalError as error:
            desk.say(Unusable(message=str(error)))
            return
        beating = tasks.create_task(_beat(desk, SystemClock()), name="beat")
        async for request in _requests(reader, worker, idle_seconds):
            worker.handle(request)
        worker.leave()
        beating.cancel()


async def _requests(
    reader: asyncio.StreamReader, worker: Worker, idle_seconds: float
) -> AsyncIterator[Request]:
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                line = await reader.readline()
        except TimeoutError:
            if worker.busy:
                continue
            return
        if not line:
            return
        yield decode_request(line)


async def _beat(desk: Desk, clock: Clock) -> None:
    while True:
        await clock.sleep(ALIVE_SECONDS)
        desk.say(Alive())


async def _run(source: int, sink: int) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(source, "rb", buffering=0)
    )
    writer, _ = await loop.connect_write_pipe(
        asyncio.BaseProtocol, os.fdopen(sink, "wb", buffering=0)
    )
    try:
        await serve(reader, Desk(writer))
    finally:
        writer.close()


def main() -> int:
    """Serve the daemon at the other end of stdin and stdout. Exit code 1 if that is no daemon."""
    try:
        confine()
    except OSError as error:
        sys.stderr.write(f"kmm image worker: not without its bounds: {error.strerror}\n")
        return 1
    source, sink = os.dup(0), os.dup(1)
    # What a library prints must not become a message.
    os.dup2(2, 1)
    try:
        asyncio.run(_run(source, sink))
    except MessageError as error:
        sys.stderr.write(f"kmm image worker: {error}; only kmm-daemon starts it\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
