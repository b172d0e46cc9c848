"""kmm, also `kubectl kmm`: what users of Modules ask."""

import argparse
import asyncio
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kmm_cli.fleet import Fleet, fleet
from kmm_cli.render import as_json, as_text
from kmm_common.errors import KmmError
from kmm_cp.kube.client import KubeClient, Object
from kmm_cp.kube.errors import NotFoundError
from kmm_cp.kube.resources import MODULES, NODE_MODULES_STATES, Resource

LIMIT_SECONDS = 60.0
INTERRUPTED = 130
NOT_INSTALLED = (
    "the cluster has no Modules: KMM is not installed there, or it is not the cluster you mean; "
    "--kubeconfig chooses another"
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; exit code 1 if it cannot be answered."""
    options = _parser().parse_args(arguments)
    try:
        seen = asyncio.run(_fleet(options.kubeconfig))
    except NotFoundError as error:
        return _refused(f"{error}; {NOT_INSTALLED}")
    except KmmError as error:
        return _refused(str(error))
    except TimeoutError:
        return _refused(f"the API server did not answer within {LIMIT_SECONDS:.0f} s")
    except KeyboardInterrupt:
        return INTERRUPTED
    _print(_rendered(seen, options.output))
    return 0


def _refused(why: str) -> int:
    sys.stderr.write(f"kmm: {why}\n")
    return 1


def _print(text: str) -> None:
    """Print for readers that may stop reading, as head does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python writes what is left when it ends, which must not fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kmm", description="Kernel modules on nodes")
    parser.add_argument("--version", action="version", version=f"kmm {version('kmm')}")
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="the fleet at a glance, and what failed")
    status.add_argument("-o", "--output", choices=["text", "json"], default="text")
    status.add_argument(
        "--kubeconfig", type=Path, default=None, help="default: $KUBECONFIG, ~/.kube/config"
    )
    return parser


def _rendered(seen: Fleet, output: str) -> str:
    if output == "json":
        return as_json(seen)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return as_text(seen, colour=colour)


async def _fleet(kubeconfig: Path | None) -> Fleet:
    chosen = kubeconfig or Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube/config")
    client = await KubeClient.connect(chosen, user_agent="kmm", field_manager="kmm")
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            modules = await _all(client, MODULES)
            return fleet(modules, await _all(client, NODE_MODULES_STATES))
    finally:
        await client.close()


async def _all(client: KubeClient, resource: Resource) -> list[Object]:
    items: list[Any] = []
    async for page in client.pages(resource):
        items += page["items"]
    return items


if __name__ == "__main__":
    sys.exit(main())
