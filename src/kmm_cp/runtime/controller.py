"""One kind of decision: keys from a queue, each reconciled until it holds."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from kmm_common.backoff import Backoff
from kmm_common.clock import Clock
from kmm_common.errors import TerminalError, TransientError
from kmm_common.logs import log
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


class Outcome:
    """Values of the label `result` of kmm_cp_reconcile_total."""

    DONE = "done"
    TRANSIENT = "transient"
    TERMINAL = "terminal"
    CRASH = "crash"
    ALL = (DONE, TRANSIENT, TERMINAL, CRASH)


class Metrics:
    """What all controllers count, by controller."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.total = Counter(
            "kmm_cp_reconcile_total", "Reconciles", ["controller", "result"], registry=registry
        )
        self.seconds = Histogram(
            "kmm_cp_reconcile_seconds", "Time of a reconcile", ["controller"], registry=registry
        )
        self.depth = Gauge(
            "kmm_cp_queue_depth", "Keys waiting for a worker", ["controller"], registry=registry
        )

    def start_at_zero(self, controller: str) -> None:
        for result in Outcome.ALL:
            self.total.labels(controller, result)
        self.seconds.labels(controller)
        self.depth.labels(controller).set(0)


class Controller(Generic[K]):
    """Runs `reconcile` for the keys of its queue; no failure of a key ever stops it."""

    def __init__(
        self,
        name: str,
        reconcile: Reconcile[K],
        *,
        clock: Clock,
        metrics: Metrics,
        workers: int = 4,
        timeout: float = 60.0,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = name
        self.queue: Queue[K] = Queue(clock, backoff)
        self._reconcile = reconcile
        self._clock = clock
        self._metrics = metrics
        self._workers = workers
        self._timeout = timeout
        metrics.start_at_zero(name)

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
                self._metrics.depth.labels(self.name).set(self.queue.statistics().ready)

    async def _turn(self, key: K) -> None:
        started = self._clock.monotonic()
        outcome = await self._guarded(key)
        self._metrics.seconds.labels(self.name).observe(self._clock.monotonic() - started)
        self._metrics.total.labels(self.name, outcome).inc()

    async def _guarded(self, key: K) -> str:
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
        except Exception:
            delay = self.queue.retry(key)
            logger.exception("reconcile of %s %s crashed", self.name, key)
            return Outcome.CRASH
        self.queue.forget(key)
        if result.requeue_after is not None:
            self.queue.add_after(key, result.requeue_after)
        return Outcome.DONE

    def _failed(self, level: int, key: K, error: Exception, delay: float | None) -> None:
        fields = {"controller": self.name, "key": str(key), "error": str(error) or repr(error)}
        log(logger, level, "reconcile failed", **fields, retry_in=delay)
