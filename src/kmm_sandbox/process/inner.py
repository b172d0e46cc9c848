"""The inner half of a sandbox that plays kubelet."""

import argparse
import sys

from kmm_sandbox.binaries import find_binaries
from kmm_sandbox.demo import Words
from kmm_sandbox.inner import inside, relayed
from kmm_sandbox.lifeline import Lifeline
from kmm_sandbox.modes import act
from kmm_sandbox.operations import PlayedOperations
from kmm_sandbox.process.sandbox import Sandbox
from kmm_sandbox.progress import Progress

WORDS = Words(
    commands="",
    nodes="""\
On these nodes the sandbox plays kubelet: it keeps Nodes, Leases and the daemons' Pods true.""",
)


def _run(options: argparse.Namespace, progress: Progress, lifeline: Lifeline) -> int:
    sandbox = Sandbox.start(
        options.directory,
        find_binaries(progress),
        progress=progress,
        nodes=options.nodes,
        leashed=False,
    )
    try:
        return act(
            options.mode,
            sandbox,
            PlayedOperations(sandbox),
            progress,
            WORDS,
            api_port=lambda: relayed(options, sandbox),
        )
    finally:
        lifeline.let_go()
        sandbox.stop()


if __name__ == "__main__":
    sys.exit(inside(_run))
