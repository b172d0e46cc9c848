"""The api tier: everything against one real control plane, started once."""

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest

from support.cluster import Cluster, release, running_cluster
from support.fleet import Fleet, running_fleet
from support.kmmcp import KmmCp, running_control_plane

_numbers = count(1)


def pytest_report_header() -> str:
    """Say at the top against which release the tests run."""
    return f"Kubernetes: {release().version}, the {release().name.lower()} that is supported"


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real control plane (RBAC, audit log, controllers) that knows KMM's CRDs."""
    with running_cluster(tmp_path_factory.mktemp("kubernetes")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def control_plane(kubernetes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmmCp]:
    """kmm-cp as a process, shared: each test has nodes and Modules of its own."""
    with running_control_plane(kubernetes, tmp_path_factory.mktemp("kmm-cp")) as started:
        yield started


@pytest.fixture
async def fleet(control_plane: KmmCp, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Nodes and Modules of one test; ends with the check of their history."""
    async with running_fleet(control_plane, f"f{next(_numbers)}", tmp_path) as started:
        yield started
