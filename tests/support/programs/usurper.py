"""kmm-cp that believes it leads, whoever else does: its election has a record of its own."""

import sys
from typing import Any

from kmm_cp import cli
from kmm_cp.roles import parts
from kmm_cp.runtime.election import Record


class OwnRecord:
    """runtime.candidate.Records that nobody else knows."""

    def __init__(self, **_: Any) -> None:
        self._record: Record | None = None

    async def read(self) -> Record | None:
        return self._record

    async def write(self, record: Record) -> Record:
        self._record = record
        return record


parts.LeaseRecords = OwnRecord  # type: ignore[attr-defined, assignment]
sys.exit(cli.main())
