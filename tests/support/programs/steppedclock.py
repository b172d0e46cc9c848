"""kmm-cp whose wall clock is off by as many seconds as its first argument, a file, says."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kmm_common.clock import SystemClock
from kmm_cp import cli

OFFSET = Path(sys.argv.pop(1))


def now(self: SystemClock) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=float(OFFSET.read_text()))


SystemClock.now = now  # type: ignore[method-assign]
sys.exit(cli.main())
