"""A profile of the running program: a thread looks at all others a hundred times a second.

No signal interrupts the program for it, and no timer is asked of the kernel, which the daemon's
seccomp profile would refuse. Where nothing is called, a thread is seen in what it waits in.
"""

import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from types import FrameType

from kmm_common.logs import log
from kmm_common.tasks import MOST_FRAMES, function

logger = logging.getLogger(__name__)
# Whoever asks gets an answer, whatever log_level is.
logger.setLevel(logging.INFO)

PERIOD_SECONDS = 0.01
PROFILE_SECONDS = 30.0
MOST_STACKS = 50
"""Told, the most frequent ones."""

Stack = tuple[str, ...]
"""The thread's name, then module.function from the outermost call to the innermost."""


class Sampler:
    """One profile, in the log when it is over."""

    def __init__(self) -> None:
        self.stacks: Counter[Stack] = Counter()
        self.samples = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="profile", daemon=True)

    @property
    def ended(self) -> bool:
        """It has been told, or is being told."""
        return self._over.is_set()

    def begin(self) -> None:
        """Take samples from now on."""
        log(logger, logging.INFO, "profile begun", seconds=PROFILE_SECONDS)
        self._thread.start()

    def end(self) -> None:
        """End it before its time."""
        self._over.set()

    def _run(self) -> None:
        before = os.times()
        while self.samples < PROFILE_SECONDS / PERIOD_SECONDS:
            if self._over.wait(PERIOD_SECONDS):
                break
            self._sample()
        self._over.set()
        after = os.times()
        self._tell(
            seconds=after.elapsed - before.elapsed,
            cpu_seconds=after.user + after.system - before.user - before.system,
        )

    def _sample(self) -> None:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident != self._thread.ident:
                stack = [*_calls(frame)]
                self.stacks[(names.get(ident, "?"), *reversed(stack))] += 1
        self.samples += 1

    def _tell(self, *, seconds: float, cpu_seconds: float) -> None:
        for stack, samples in self.stacks.most_common(MOST_STACKS):
            log(logger, logging.INFO, "profiled", samples=samples, stack=";".join(stack))
        log(
            logger,
            logging.INFO,
            "profile ended",
            samples=self.samples,
            seconds=round(seconds, 2),
            cpu_seconds=round(cpu_seconds, 2),
        )


def _calls(innermost: FrameType) -> Iterator[str]:
    frame: FrameType | None = innermost
    for _ in range(MOST_FRAMES):
        if frame is None:
            return
        yield function(frame)
        frame = frame.f_back
