"""The serving side in a process of its own, so that its memory can be looked at.

Run as a program with a directory for its certificates. It prints one line of JSON, with its port
and the files of a daemon whose node has a desired state of one Module, and ends when stdin ends.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from kmm_common.tls import TlsFiles
from support.desired import desired
from support.serving import serving, target

NODE = "honest"
TESTS = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedAlone:
    """The process, seen from outside."""

    pid: int
    port: int
    files: TlsFiles
    """The daemon's."""
    log: Path

    def lines(self, message: str) -> int:
        """Return how often it has said something."""
        return self.log.read_text().splitlines().count(message)

    def resident_bytes(self) -> int:
        """Return how much memory it has at this moment."""
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (line,) = [line for line in status if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024


@asynccontextmanager
async def served_alone(directory: Path) -> AsyncIterator[ServedAlone]:
    """Run the process until the end of the block."""
    log = directory / "served.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *("env", f"PYTHONPATH={TESTS.parent / 'src'}:{TESTS}"),
            *(sys.executable, "-m", __name__, str(directory)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdin and process.stdout
    try:
        told = json.loads(await process.stdout.readline())
        files = TlsFiles(**{name: Path(path) for name, path in told["files"].items()})
        yield ServedAlone(pid=process.pid, port=told["port"], files=files, log=log)
    finally:
        process.stdin.close()
        await process.wait()


async def main() -> None:
    """Serve until stdin ends."""
    async with serving(Path(sys.argv[1])) as replica:
        files = replica.node(NODE, target(1, desired("one")))
        paths = {"cert": str(files.cert), "key": str(files.key), "ca": str(files.ca)}
        print(json.dumps({"port": replica.port, "files": paths}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
