"""What says that it is time to end: signals, and for the inner half the pipe to the outer one."""

import os
import select
import signal
import threading
from dataclasses import dataclass

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends the sandbox: Ctrl-C, a supervisor, a terminal that is closed."""
INTERRUPTED = 130
"""Exit code when the lifeline was cut before the work was done, as a shell's after Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Lifeline:
    """The reading end."""

    descriptor: int

    def interrupt_when_cut(self) -> None:
        """Have KeyboardInterrupt raised in the main thread when the other side has closed.

        SIGINT itself may be the terminal's, which is for the outer half alone.
        """
        signal.signal(signal.SIGUSR1, signal.default_int_handler)
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def let_go(self) -> None:
        """Interrupt no more: the end has begun."""
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def _watch(self) -> None:
        select.select([self.descriptor], [], [])
        os.kill(os.getpid(), signal.SIGUSR1)
