"""python -m kmm_sandbox up | check: what `make sandbox` and `make sandbox-check` run."""

import argparse
import sys

from kmm_common.errors import KmmError
from kmm_sandbox.launch import launch

NODES = 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="kmm_sandbox", description="A cluster on this machine")
    parser.add_argument("mode", choices=["up", "check"])
    parser.add_argument("--nodes", type=int, default=NODES, help=f"default {NODES}, at least 1")
    options = parser.parse_args()
    try:
        return launch(options.mode, nodes=max(options.nodes, 1))
    except KmmError as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
