"""One kind of decision: keys from a queue, each reconciled until it holds."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from enum import StrEnum
from secrets import token_hex
from typing import Generic, Protocol, TypeVar

from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.errors import TerminalError, TransientError
from kmm_common.logs import log, log_crash, shared_fields
from kmm_cp.runtime.cancellation import being_cancelled
from kmm_cp.runtime.queue import ClosedError, Queue

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Result:
    """What a reconcile asks for; nothing by default."""

    requeue_after: float | None = None
    """Seconds."""


DONE = Result()

Reconcile = Callable[[K], Awaitable[Result]]


class Outcome(StrEnum):
    """What came of a reconcile."""

    DONE = "done"
    TRANSIENT = "transient"
    TERMINAL = "terminal"
    CRASH = "crash"


class Observer(Protocol):
    """Told every reconcile."""

    def reconciled(self, controller: str, outcome: Outcome, seconds: float) -> None:
        """A reconcile of a controller is over."""
        ...


class Controller(Generic[K]):
    """Runs `reconcile` for the keys of its queue; no failure of a key ever stops it."""

    def __init__(
        self,
        name: str,
        reconcile: Reconcile[K],
        *,
        clock: Clock,
        observer: Observer,
        workers: int = 4,
        timeout: float = 60.0,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = name
        self.queue: Queue[K] = Queue(clock, backoff)
        self._reconcile = reconcile
        self._clock = clock
        self._observer = observer
        self._workers = workers
        self._timeout = timeout

    async def run(self) -> None:
        """Work until the queue is shut down; keys in progress are finished."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._workers):
                tasks.create_task(self._work(), name=f"{self.name} worker {number}")

    def stop(self) -> None:
        """Let run() end when the keys in progress are done."""
        self.queue.shut_down()

    async def _work(self) -> None:
        while True:
            try:
                key = await self.queue.get()
            except ClosedError:
                return
            try:
                await self._turn(key)
            finally:
                self.queue.done(key)
            # Neither a key that is due nor a turn that writes nothing waits for anything: let the
            # rest of the program run, too, whose Lease must be renewed.
            await asyncio.sleep(0)

    async def _turn(self, key: K) -> None:
        started = self._clock.monotonic()
        with shared_fields(reconcile=token_hex(4)):
            outcome = await self._guarded(key)
        self._observer.reconciled(self.name, outcome, self._clock.monotonic() - started)

    async def _guarded(self, key: K) -> Outcome:
        """Reconcile; decide by the family of the error what becomes of the key."""
        try:
            async with asyncio.timeout(self._timeout):
                result = await self._reconcile(key)
        except TransientError as error:
            delay = self.queue.retry(key, at_least=error.retry_after or 0.0)
            self._failed(logging.INFO, key, error, delay)
            return Outcome.TRANSIENT
        except TerminalError as error:
            self.queue.forget(key)
            self._failed(logging.ERROR, key, error, None)
            return Outcome.TERMINAL
        except TimeoutError as error:
            self._failed(logging.ERROR, key, error, self.queue.retry(key))
            return Outcome.TRANSIENT
        except (Exception, asyncio.CancelledError):
            if being_cancelled():
                raise
            return self._crashed(key)
        self.queue.forget(key)
        if result.requeue_after is not None:
            self.queue.add_after(key, result.requeue_after)
        return Outcome.DONE

    def _crashed(self, key: K) -> Outcome:
        delay = self.queue.retry(key)
        fields = {"controller": self.name, "key": str(key), "retry_in": delay}
        log_crash(logger, "reconcile crashed", **fields)
        return Outcome.CRASH

    def _failed(self, level: int, key: K, error: Exception, delay: float | None) -> None:
        fields = {"controller": self.name, "key": str(key), "error": str(error) or repr(error)}
        log(logger, level, "reconcile failed", **fields, retry_in=delay)
