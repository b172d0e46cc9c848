"""Kernel versions: what mappings see, what image tags may hold, what templates know."""

import re

from kmm_common.api.names import Reason
from kmm_common.errors import TerminalError

_NOT_IN_A_TAG = re.compile(r"[^A-Za-z0-9._-]")
_SEPARATOR = re.compile(r"[.,-]")


def trimmed(kernel_version: str) -> str:
    """Return the version that mappings and image directories know: without a trailing plus."""
    return kernel_version.removesuffix("+")


def normalized(kernel_version: str) -> str:
    """Return the trimmed version with every character that no image tag may have as `_`."""
    return _NOT_IN_A_TAG.sub("_", trimmed(kernel_version))


def variables(kernel_version: str) -> dict[str, str]:
    """Return KERNEL_*, by name. Raises TerminalError for a version of less than three parts."""
    full = normalized(kernel_version)
    parts = _SEPARATOR.split(full)
    if len(parts) < 3:
        raise TerminalError(
            f"kernel version {kernel_version!r} has not the three parts that KERNEL_XYZ needs",
            reason=Reason.INVALID_TEMPLATE,
        )
    x, y, z = parts[:3]
    return {
        "KERNEL_FULL_VERSION": full,
        "KERNEL_VERSION": full,
        "KERNEL_XYZ": f"{x}.{y}.{z}",
        "KERNEL_X": x,
        "KERNEL_Y": y,
        "KERNEL_Z": z,
    }
