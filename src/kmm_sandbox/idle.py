"""Tells when the control plane has nothing more to do, from its own metrics."""

import re
import time
import urllib.request

from kmm_common.clock import SystemClock
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.network import HOST_ADDRESS
from kmm_sandbox.programs import METRICS_PORT

QUIET_SECONDS = 5.0
"""Longer than any change waits for others to be reconciled with."""
PERIOD_SECONDS = 0.5
_URL = f"http://{HOST_ADDRESS}:{METRICS_PORT}/metrics"
_RECONCILES = re.compile(r"^kmm_cp_reconciles_total\{.*$", re.MULTILINE)


def wait_idle(*, seconds: float) -> None:
    """Wait until no controller has had anything to do for a while. Raises SandboxError, OSError."""
    clock = SystemClock()
    deadline = clock.monotonic() + seconds
    seen, since = reconciles(), clock.monotonic()
    while clock.monotonic() < since + QUIET_SECONDS:
        if clock.monotonic() > deadline:
            raise SandboxError(f"kmm-cp has always something to do: not idle in {seconds:.0f} s")
        time.sleep(PERIOD_SECONDS)
        now = reconciles()
        if now != seen:
            seen, since = now, clock.monotonic()


def reconciles() -> list[str]:
    """Return what the running control plane counts of its reconciles. Raises OSError."""
    with urllib.request.urlopen(_URL, timeout=10) as answer:
        found = _RECONCILES.findall(answer.read().decode())
    if not found:
        raise SandboxError(f"{_URL} counts no reconciles")
    return sorted(found)
