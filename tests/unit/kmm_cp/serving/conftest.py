"""A replica of the serving side on loopback."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.serving import Serving, serving


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path) as replica:
        yield replica
