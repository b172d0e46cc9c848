"""python -m kmm_sandbox up | check | cluster: what `make sandbox` and its like run."""

import argparse
import json
import signal
import subprocess
import sys

from kmm_common.errors import KmmError
from kmm_sandbox.cluster import outer as cluster
from kmm_sandbox.launch import SIGNALS, Ended, Kind, launch
from kmm_sandbox.lifeline import INTERRUPTED
from kmm_sandbox.verdict import failure

NODES = 3
CLUSTER = "cluster"
"""The mode whose nodes have real kubelets."""
CHECK = "check"
"""The mode whose last line is a verdict, and whose exit code is 0 or 1."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="kmm_sandbox", description="A cluster on this machine")
    parser.add_argument("mode", choices=["up", CHECK, CLUSTER])
    parser.add_argument("--nodes", type=int, default=NODES, help=f"default {NODES}, at least 1")
    options = parser.parse_args()
    for each in SIGNALS:
        signal.signal(each, signal.default_int_handler)
    ended = _ended(options.mode, max(options.nodes, 1))
    if options.mode == CHECK:
        print(ended.verdict, flush=True)
        return min(abs(ended.code), 1)
    return ended.code


def _ended(mode: str, nodes: int) -> Ended:
    """Run the sandbox; say what kept it from running, or that it was interrupted before it did."""
    try:
        kind = cluster.KIND if mode == CLUSTER else Kind()
        return launch(mode, nodes=nodes, kind=kind)
    except (KmmError, OSError, subprocess.SubprocessError) as error:
        code, told = 1, str(error)
    except KeyboardInterrupt:
        code, told = INTERRUPTED, "interrupted"
    sys.stderr.write(f"sandbox: {told}\n")
    return Ended(code, json.dumps(failure(told)))


if __name__ == "__main__":
    sys.exit(main())
