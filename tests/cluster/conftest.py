"""The nodes of these tests have real kubelets: one cluster for the whole session."""

from collections.abc import Iterator

import pytest

from kmm_sandbox import namespaces
from kmm_sandbox.binaries import find_binaries
from kmm_sandbox.cluster.cluster import Cluster
from kmm_sandbox.cluster.programs import find_programs
from kmm_sandbox.progress import Progress

NODES = 2
"""With kernels of their own."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with a scheduler, the node on this machine's kernel, and two others."""
    namespaces.require_inside()
    progress = Progress()
    running = Cluster.start(
        tmp_path_factory.mktemp("cluster"),
        find_binaries(progress),
        find_programs(progress),
        nodes=NODES,
        progress=progress,
    )
    try:
        yield running
        running.require_alive()
    finally:
        running.stop()
