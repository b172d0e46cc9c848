"""The disk of a node: a file system of its own, which outlives the node's power cuts."""

from pathlib import Path

from kmm_sandbox.processes import run

DISK_BYTES = 2 * 2**30
"""Of the sparse file; it takes only what the node has written."""
MAKE_SECONDS = 60.0


def make_disk(path: Path) -> None:
    """Make an empty disk; one that is there stays. Raises SandboxError."""
    if path.exists():
        return
    with path.open("xb") as file:
        file.truncate(DISK_BYTES)
    run(["mkfs.ext4", "-q", "-F", "-m", "0", str(path)], limit=MAKE_SECONDS)
