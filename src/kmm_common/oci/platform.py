"""Platforms in Go's words, as image indexes name them."""

from dataclasses import dataclass

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "amd64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "arm64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "loongarch64": ("loong64", ""),
}
_LOWEST = {"amd64": "v1", "arm64": "v8", "arm": "v5"}
"""What no variant stands for; for amd64 and arm64 also what is assumed of a node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """Operating system, architecture and variant of it, as in `linux/arm/v7`."""

    os: str = "linux"
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def platform_of_machine(machine: str) -> Platform:
    """Return the platform of a Linux machine, named as uname -m prints it."""
    architecture, variant = _ARCHITECTURES.get(machine, (machine, ""))
    return Platform(architecture=architecture, variant=variant)


def fitness(offered: Platform, wanted: Platform) -> int:
    """Return how well an image for one platform suits another: 0 not at all, more is better."""
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return 0
    have, want = _level(offered), _level(wanted)
    if have > want:
        return 0
    return 1 + have


def _level(platform: Platform) -> int:
    """Return a variant as a number that grows with what the processor must be able to do."""
    variant = platform.variant or _LOWEST.get(platform.architecture, "")
    number = variant.removeprefix("v").partition(".")[0]
    return int(number) if number.isascii() and number.isdecimal() and len(number) < 3 else 0
