"""python -m kmm_sandbox up | check: what `make sandbox` and `make sandbox-check` run."""

import argparse
import json
import signal
import sys

from kmm_sandbox import kinds
from kmm_sandbox.ended import Ended
from kmm_sandbox.errors import FAILURES, SandboxError, told
from kmm_sandbox.kinds import Kind
from kmm_sandbox.lifeline import INTERRUPTED, SIGNALS
from kmm_sandbox.modes import CHECK, MODES
from kmm_sandbox.network import MAX_NODES
from kmm_sandbox.progress import Progress
from kmm_sandbox.verdict import failure


def main() -> int:
    """Run it; a check's last line is its verdict, and its exit code is 0 or 1."""
    options = _options()
    for each in SIGNALS:
        signal.signal(each, signal.default_int_handler)
    ended = _ended(options)
    if options.mode == CHECK:
        print(ended.verdict, flush=True)
        return min(abs(ended.code), 1)
    return ended.code


def _options() -> argparse.Namespace:
    names = ", ".join(kind.name for kind in kinds.KINDS)
    counts = ", ".join(f"{kind.count} of {kind.name}" for kind in kinds.KINDS)
    parser = argparse.ArgumentParser(prog="kmm_sandbox", description="A cluster on this machine")
    parser.add_argument("mode", choices=MODES)
    parser.add_argument(
        "--nodes",
        default=kinds.AUTO,
        help=f"their kind, {names}; {kinds.AUTO}, the default, is the first that can run here",
    )
    parser.add_argument("--count", help=f"of nodes, 1 to {MAX_NODES}; default {counts}")
    return parser.parse_args()


def _ended(options: argparse.Namespace) -> Ended:
    """Run the sandbox; say what kept it from running, or that it was interrupted before it did."""
    kind: Kind | None = None
    try:
        progress = Progress()
        choice = kinds.choose(options.nodes)
        kind = choice.kind
        count = how_many(options.count, kind.count)
        for line in choice.told():
            progress.say(line)
        return _of_kind(kind, kind.run(options.mode, nodes=count, progress=progress))
    except FAILURES as error:
        code, message = 1, told(error)
    except KeyboardInterrupt:
        code, message = INTERRUPTED, "interrupted"
    sys.stderr.write(f"sandbox: {message}\n")
    return _of_kind(kind, Ended(code, json.dumps(failure(message))))


def how_many(asked: str | None, default: int) -> int:
    """Return how many nodes there are to be. Raises SandboxError on what is no such number."""
    if asked is None:
        return default
    if asked.isdecimal() and 1 <= int(asked) <= MAX_NODES:
        return int(asked)
    raise SandboxError(
        f"COUNT={asked} is no whole number from 1 to {MAX_NODES}; without it there are {default}",
        reason="BadSetting",
    )


def _of_kind(kind: Kind | None, ended: Ended) -> Ended:
    """Have the verdict say of which kind the nodes were, if it came to that."""
    if kind is None:
        return ended
    verdict = json.loads(ended.verdict)
    return Ended(ended.code, json.dumps({"ok": verdict["ok"], "nodes": kind.name, **verdict}))


if __name__ == "__main__":
    sys.exit(main())
