"""The nodes of these tests have real kubelets: one cluster for the whole session."""

from collections.abc import Iterator

import pytest

from kmm_sandbox import namespaces
from kmm_sandbox.binaries import find_binaries
from kmm_sandbox.cluster import kmm
from kmm_sandbox.cluster.cluster import Cluster
from kmm_sandbox.cluster.outer import build_images
from kmm_sandbox.cluster.programs import find_programs
from kmm_sandbox.progress import Progress

NODES = 2
"""With kernels of their own."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with a scheduler, the node on this machine's kernel, and two others."""
    namespaces.require_inside()
    progress = Progress()
    images = tmp_path_factory.mktemp("images")
    build_images("--output", str(images))
    running = Cluster.start(
        tmp_path_factory.mktemp("cluster"),
        find_binaries(progress),
        find_programs(progress),
        nodes=NODES,
        progress=progress,
        supplies=kmm.supplies(images / "kmm-cp.oci.tar", images / "kmm-daemon.oci.tar"),
    )
    try:
        yield running
        running.require_alive()
    finally:
        running.stop()


@pytest.fixture(scope="session")
def kmm_cluster(cluster: Cluster) -> Cluster:
    """The same, with KMM on it."""
    kmm.install(cluster)
    return cluster
