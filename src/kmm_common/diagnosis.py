"""What a running program tells of itself in its log when it is sent a signal.

Nothing listens for it: who may send a process a signal is its user, or root on its node.

SIGUSR1: where every thread and every task is. SIGUSR2: a profile of half a minute; sent again, it
ends at once. What does the work is imported at the signal: an idle daemon pays for none of it.
"""

import asyncio
import faulthandler
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kmm_common.sampling import Sampler

_STANDARD_ERROR = 2


def answer_before_the_loop() -> None:
    """Tell where every thread is at a SIGUSR1, also while the program still starts."""
    # Written by a handler in C: it works where Python code is stuck in a call, too.
    faulthandler.register(signal.SIGUSR1, file=_STANDARD_ERROR)


def answer_in_the_loop() -> None:
    """Answer both signals for as long as the running event loop does not end."""
    loop = asyncio.get_running_loop()
    faulthandler.unregister(signal.SIGUSR1)
    loop.add_signal_handler(signal.SIGUSR1, _tell_tasks)
    loop.add_signal_handler(signal.SIGUSR2, _Profiling().begin_or_end)
    # After the handlers of the loop, whose place it takes and to which it hands on.
    faulthandler.register(signal.SIGUSR1, file=_STANDARD_ERROR, chain=True)


def _tell_tasks() -> None:
    from kmm_common.tasks import tell_tasks

    tell_tasks()


class _Profiling:
    """At most one profile at a time."""

    def __init__(self) -> None:
        self._running: Sampler | None = None

    def begin_or_end(self) -> None:
        from kmm_common.sampling import Sampler

        if self._running is None or self._running.ended:
            self._running = Sampler()
            self._running.begin()
        else:
            self._running.end()
