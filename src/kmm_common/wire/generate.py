"""Generates kmm_common.wire.gen from protos/: `python -m kmm_common.wire.generate [--check]`.

Runs in a checkout with the development dependencies installed; the product itself needs none.
"""

import contextlib
import filecmp
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

CHECKOUT = Path(__file__).parents[3]
OUTPUT = Path(__file__).parent / "gen"
PROTOS = ("kmm/v1/nodelink.proto",)
PLUGIN = "protoc-gen-python_betterproto2"


def main(arguments: Sequence[str]) -> int:
    """Write the generated code, or with --check tell whether it is what would be written."""
    if "--check" in arguments:
        stale = outdated()
        for name in stale:
            sys.stderr.write(f"{OUTPUT / name} is not what the protos say\n")
        if stale:
            sys.stderr.write("run: python -m kmm_common.wire.generate\n")
        return int(bool(stale))
    OUTPUT.mkdir(exist_ok=True)
    return generate(OUTPUT)


def outdated() -> list[str]:
    """Return the generated files that differ from what the protos say, missing ones included."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        if generate(fresh) != 0:
            return [f"({name} cannot be compiled)" for name in PROTOS]
        names = sorted(_files(fresh) | _files(OUTPUT))
        return filecmp.cmpfiles(fresh, OUTPUT, names, shallow=False)[1] + [
            name for name in names if not ((fresh / name).exists() and (OUTPUT / name).exists())
        ]


def generate(output: Path) -> int:
    """Compile the protos into a directory; return the compiler's exit code."""
    tools = Path(sys.executable).parent
    arguments = [
        "protoc",
        f"--proto_path={CHECKOUT / 'protos'}",
        f"--plugin={PLUGIN}={tools / PLUGIN}",
        f"--python_betterproto2_out={output}",
        "--python_betterproto2_opt=client_generation=async",
        "--python_betterproto2_opt=server_generation=async",
        *PROTOS,
    ]
    with _in_checkout(tools):
        return int(protoc.main(arguments))


@contextlib.contextmanager
def _in_checkout(tools: Path) -> Iterator[None]:
    """Let the plugin find ruff, and ruff the checkout's settings: they decide the layout."""
    path = os.environ.get("PATH", "")
    os.environ["PATH"] = f"{tools}{os.pathsep}{path}"
    try:
        with contextlib.chdir(CHECKOUT):
            yield
    finally:
        os.environ["PATH"] = path


def _files(root: Path) -> set[str]:
    return {
        str(file.relative_to(root))
        for file in root.rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
