"""python -m kmm_sandbox up | check: what `make sandbox` and `make sandbox-check` run."""

import argparse
import json
import sys

from kmm_common.errors import KmmError
from kmm_sandbox.launch import CHECK, launch
from kmm_sandbox.verdict import failure

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
        if options.mode == CHECK:
            print(json.dumps(failure(str(error))))
        return 1


if __name__ == "__main__":
    sys.exit(main())
