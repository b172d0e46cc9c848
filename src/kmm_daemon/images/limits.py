"""Bounds of what an image may cost a node."""

from dataclasses import dataclass, field

from kmm_common.oci.transport import Timeouts

MIB = 1024**2
GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class PullLimits:
    """Of a download."""

    timeouts: Timeouts = field(default_factory=Timeouts)
    stall_seconds: float = 30.0
    stall_bytes: int = 30 * 1024
    """A registry that sends less than this in stall_seconds has stalled."""
    total_seconds: float = 900.0
    """For one attempt, all layers of the image."""
    attempts: int = 4
    image_bytes: int = 16 * GIB
    """Of all layers as they are downloaded."""
    parallel: int = 2
    """Pulls of a node at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackLimits:
    """Of unpacking."""

    total_bytes: int = 2 * GIB
    """Written."""
    entries: int = 20_000
    """Written."""
    scanned: int = 500_000
    """Members of all layers, those that are skipped included."""
    ratio: int = 100
    """Of a layer's content to its compressed size."""
    ratio_from: int = 16 * MIB
    """A layer's content up to this size may have any ratio."""
    header_bytes: int = MIB
    """Of the extended headers of one member."""
    seconds: float = 120.0
