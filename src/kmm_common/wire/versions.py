"""Versions of the protocol, and which one two sides of different releases speak."""

OLDEST = 1
NEWEST = 1
"""What this release speaks, both included: that of the release before it, and its own."""


def common(newest: int, oldest: int) -> int | None:
    """Return the newest version that a peer speaks too; None if there is none.

    `oldest` is 0 for a peer that speaks but one.
    """
    version = min(newest, NEWEST)
    return version if version >= max(oldest or newest, OLDEST) else None


def spoken() -> str:
    """Return the versions that this release speaks, for people."""
    return f"version {NEWEST}" if OLDEST == NEWEST else f"versions {OLDEST} to {NEWEST}"
