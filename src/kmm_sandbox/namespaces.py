"""Namespaces of the sandbox's own: nothing that starts inside outlives them."""

import os
from collections.abc import Sequence

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import leash

MARK = "KMM_SANDBOX_NAMESPACES"
"""Set for what runs inside."""


def inside(argv: Sequence[str]) -> list[str]:
    """Return argv such that it runs as the first process of new namespaces.

    When it ends, the kernel ends all processes inside; with the last of them the network goes,
    taps and bridge included, and so do the mounts.
    """
    own = ["--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
    return ["unshare", *own, "env", f"{MARK}=1", *argv]


def leashed_inside(argv: Sequence[str]) -> list[str]:
    """Return the same, such that it also ends at once when whoever started it ends."""
    return leash(inside(argv))


def require_inside() -> None:
    """Raise SandboxError unless this process runs in namespaces of the sandbox's own."""
    if os.environ.get(MARK) != "1":
        raise SandboxError(
            "nodes and their network live in namespaces of their own: use `make sandbox`, or"
            " `python tests/tiers.py e2e` for the tests",
            reason="NotInside",
        )
