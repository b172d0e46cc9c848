"""A load whose modprobe was ended before it was over, though the module is in the kernel: pure.

The module's init goes on, but what it waits for inside the kernel ends early once a signal that
kills is pending: a driver may have passed over devices, and have said so nowhere.
"""

from collections.abc import Mapping

from kmm_common.api.names import Reason
from kmm_common.desired import ModuleFailure

_LATE = (
    "modprobe was ended after modprobe_seconds while the module was loaded; devices may be "
    "missing: raise modprobe_seconds, then reload the module"
)
_KILLED = (
    "modprobe was killed while the module was loaded; devices may be missing: reload the module"
)
_SAID: Mapping[str, str] = {
    Reason.TIMED_OUT: _LATE,
    Reason.STILL_RUNNING: _LATE,
    Reason.KILLED: _KILLED,
}


def warning(failure: ModuleFailure) -> str:
    """Return what is to be known of a module that came though its load failed; empty if nothing."""
    # A modprobe that exits with 0 has ended by itself, also where an init has not returned yet.
    return "" if failure.exit_code == 0 else _SAID.get(failure.reason, "")
