"""What every inner half is: it runs inside the namespaces, as their first process."""

import argparse
import contextlib
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from kmm_sandbox import namespaces, rundirectory
from kmm_sandbox.lifeline import Lifeline
from kmm_sandbox.modes import MODES, attempt
from kmm_sandbox.progress import Progress
from kmm_sandbox.relay import Relay
from kmm_sandbox.running import Running


def inside(run: Callable[[argparse.Namespace, Progress, Lifeline], int]) -> int:
    """Run something whole until it ends or the lifeline is cut; 1 if anything failed."""
    options = _options()
    # The outer half decides when it is over.
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    progress = Progress()
    lifeline = Lifeline(options.lifeline)
    lifeline.interrupt_when_cut()

    def whole() -> int:
        namespaces.require_inside()
        return run(options, progress, lifeline)

    try:
        return attempt(options.directory, progress, whole)
    finally:
        rundirectory.remove_unless_held(options.directory)
        # The terminal may be gone, and with it the outer half.
        with contextlib.suppress(OSError):
            progress.say("everything is stopped")


def relayed(options: argparse.Namespace, sandbox: Running) -> int:
    """Have the API server reached from outside; return its port there."""
    outside = socket.socket(fileno=options.api_socket)
    relay = Relay(outside=outside, inside=("127.0.0.1", sandbox.plane.layout.ports.api))
    relay.start()
    return relay.port


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--api-socket", type=int, required=True)
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    return parser.parse_args()
