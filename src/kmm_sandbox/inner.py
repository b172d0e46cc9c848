"""The inner half: runs inside the namespaces, as their first process."""

import argparse
import contextlib
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from kmm_common.errors import KmmError
from kmm_sandbox import check, demo, namespaces, rundirectory, verdict
from kmm_sandbox.binaries import find_binaries
from kmm_sandbox.demo import Words
from kmm_sandbox.lifeline import INTERRUPTED, Lifeline
from kmm_sandbox.operations import ProcessOperations
from kmm_sandbox.progress import Progress
from kmm_sandbox.relay import Relay
from kmm_sandbox.running import Operations, Running
from kmm_sandbox.sandbox import Sandbox

MODES = ("up", "check")
WORDS = Words(
    commands="",
    nodes="""\
On these nodes the sandbox plays kubelet: it keeps Nodes, Leases and the daemons' Pods true.""",
)


def main() -> int:
    """Start the sandbox, run the mode, end the sandbox; 1 if anything failed."""
    return inside(_run)


def inside(run: Callable[[argparse.Namespace, Progress, Lifeline], int]) -> int:
    """Run something whole until it ends or the lifeline is cut; 1 if anything failed."""
    options = _options()
    # The outer half decides when it is over.
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    progress = Progress()
    lifeline = Lifeline(options.lifeline)
    lifeline.interrupt_when_cut()
    try:
        namespaces.require_inside()
        return run(options, progress, lifeline)
    except KmmError as error:
        progress.say(f"failed: {error}")
        verdict.leave(options.directory, verdict.failure(str(error)))
        return 1
    except KeyboardInterrupt:
        verdict.leave(options.directory, verdict.failure("interrupted"))
        return INTERRUPTED
    finally:
        rundirectory.remove_unless_held(options.directory)
        # The terminal may be gone, and with it the outer half.
        with contextlib.suppress(OSError):
            progress.say("everything is stopped")


def _run(options: argparse.Namespace, progress: Progress, lifeline: Lifeline) -> int:
    sandbox = Sandbox.start(
        options.directory,
        find_binaries(progress),
        progress=progress,
        nodes=options.nodes,
        leashed=False,
    )
    try:
        return act(options, sandbox, ProcessOperations(sandbox), progress, WORDS)
    finally:
        lifeline.let_go()
        sandbox.stop()


def act(
    options: argparse.Namespace,
    sandbox: Running,
    operations: Operations,
    progress: Progress,
    words: Words,
) -> int:
    """Do what the mode is, on any kind of nodes; return the exit code. Raises SandboxError."""
    if options.mode == "check":
        return check.run(sandbox, operations, progress)
    outside = socket.socket(fileno=options.api_socket)
    relay = Relay(outside=outside, inside=("127.0.0.1", sandbox.plane.layout.ports.api))
    relay.start()
    return demo.run(sandbox, progress, words, port=relay.port)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--api-socket", type=int, required=True)
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
