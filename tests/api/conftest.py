"""The api tier: everything against one real control plane, started once."""

from collections.abc import Iterator

import pytest
from support.cluster import Cluster, running_cluster


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real control plane (RBAC, audit log, controllers) that knows KMM's CRDs."""
    with running_cluster(tmp_path_factory.mktemp("kubernetes")) as cluster:
        yield cluster
