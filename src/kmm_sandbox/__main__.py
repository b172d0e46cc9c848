"""python -m kmm_sandbox up | check: what `make sandbox` and `make sandbox-check` run."""

import argparse
import json
import signal
import subprocess
import sys

from kmm_common.errors import KmmError
from kmm_sandbox import kinds
from kmm_sandbox.kinds import Kind
from kmm_sandbox.launch import SIGNALS, Ended
from kmm_sandbox.lifeline import INTERRUPTED
from kmm_sandbox.progress import Progress
from kmm_sandbox.verdict import failure

CHECK = "check"
"""The mode whose last line is a verdict, and whose exit code is 0 or 1."""


def main() -> int:
    options = _options()
    for each in SIGNALS:
        signal.signal(each, signal.default_int_handler)
    ended = _ended(options)
    if options.mode == CHECK:
        print(ended.verdict, flush=True)
        return min(abs(ended.code), 1)
    return ended.code


def _options() -> argparse.Namespace:
    counts = ", ".join(f"{kind.count} of {kind.name}" for kind in kinds.KINDS)
    parser = argparse.ArgumentParser(prog="kmm_sandbox", description="A cluster on this machine")
    parser.add_argument("mode", choices=["up", CHECK])
    parser.add_argument(
        "--nodes",
        choices=[kinds.AUTO, *(kind.name for kind in kinds.KINDS)],
        default=kinds.AUTO,
        help=f"their kind; {kinds.AUTO}, the default, is the first of the others that can run here",
    )
    parser.add_argument("--count", type=int, help=f"of nodes, at least 1; default {counts}")
    return parser.parse_args()


def _ended(options: argparse.Namespace) -> Ended:
    """Run the sandbox; say what kept it from running, or that it was interrupted before it did."""
    kind: Kind | None = None
    try:
        progress = Progress()
        choice = kinds.choose(options.nodes)
        kind = choice.kind
        for line in choice.told():
            progress.say(line)
        count = kind.count if options.count is None else max(options.count, 1)
        return _of_kind(kind, kind.run(options.mode, nodes=count, progress=progress))
    except (KmmError, OSError, subprocess.SubprocessError) as error:
        code, told = 1, str(error)
    except KeyboardInterrupt:
        code, told = INTERRUPTED, "interrupted"
    sys.stderr.write(f"sandbox: {told}\n")
    return _of_kind(kind, Ended(code, json.dumps(failure(told))))


def _of_kind(kind: Kind | None, ended: Ended) -> Ended:
    """Have the verdict say of which kind the nodes were, if it came to that."""
    if kind is None:
        return ended
    verdict = json.loads(ended.verdict)
    return Ended(ended.code, json.dumps({"ok": verdict["ok"], "nodes": kind.name, **verdict}))


if __name__ == "__main__":
    sys.exit(main())
