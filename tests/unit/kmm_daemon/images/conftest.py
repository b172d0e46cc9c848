"""What the tests of the image store share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kmm_common.clock import SystemClock
from kmm_common.oci.cancellation import Cancellation
from kmm_common.oci.digest import digest_of, hex_of
from kmm_daemon.images.budget import Budget
from kmm_daemon.images.limits import UnpackLimits
from kmm_daemon.images.unpack import unpack
from kmm_daemon.images.wanted import wanted_of
from support.images import module_for

Unpack = Callable[..., Path]


@pytest.fixture
def unpacked(tmp_path: Path) -> Unpack:
    """Unpack layers, the lowest first, as a Module wants them; the root comes back."""

    def run(*layers: bytes, limits: UnpackLimits | None = None, **fields: Any) -> Path:
        root = tmp_path / "private" / "root"
        root.mkdir(parents=True)
        paths = []
        for content in layers:
            path = tmp_path / hex_of(digest_of(content))
            path.write_bytes(content)
            paths.append(path)
        budget = Budget(limits or UnpackLimits(), SystemClock(), Cancellation())
        unpack(paths, wanted_of(module_for(**fields)), root, budget)
        return root

    return run
