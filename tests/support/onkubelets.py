"""Fixtures: one cluster with real kubelets for the whole run, and KMM on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kmm_sandbox import namespaces
from kmm_sandbox.binaries import find_binaries
from kmm_sandbox.cluster import kmm
from kmm_sandbox.cluster.cluster import HOST_NODE, Cluster
from kmm_sandbox.cluster.nodebinaries import find_node_binaries
from kmm_sandbox.cluster.outer import build_images
from kmm_sandbox.progress import Progress
from support.installation import inventory
from support.kubelets import Kubelets
from support.podlogs import PodLogs

KUBELETS = "--kubelets"
"""Option of pytest: tests that can run on both kinds of nodes have real kubelets."""
NODES = 3
"""With kernels of their own."""
SPARE = 1
"""Such ones that join later."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Choose between the kinds of nodes that the spine's tests can run on."""
    parser.addoption(KUBELETS, action="store_true", help="have real kubelets on the nodes")


@pytest.fixture(scope="session")
def kubelet_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with a scheduler, the node on this machine's kernel, and the others."""
    namespaces.require_inside()
    progress = Progress()
    running = Cluster.start(
        tmp_path_factory.mktemp("cluster"),
        find_binaries(progress),
        find_node_binaries(progress),
        nodes=NODES,
        spare=SPARE,
        progress=progress,
        seccomp=kmm.SECCOMP,
    )
    try:
        yield running
        running.require_alive()
    finally:
        running.stop()


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the archives of KMM's images."""
    directory = tmp_path_factory.mktemp("images")
    build_images("--output", str(directory))
    return directory


@pytest.fixture(scope="session")
def kubelets(kubelet_cluster: Cluster, archives: Path) -> Iterator[Kubelets]:
    """The cluster with KMM on it."""
    cluster = kubelet_cluster
    places = {HOST_NODE: cluster.directory / HOST_NODE / "pod-logs"}
    places |= {
        name: node.settings.pod_logs for name, node in (cluster.nodes | cluster.away).items()
    }
    logs = PodLogs(places=places, kept=cluster.directory / "kept-logs")
    looks = logs.start()
    try:
        before = inventory(cluster)
        kmm.install(cluster, archives)
        yield Kubelets(cluster=cluster, logs=logs, before=before)
    finally:
        logs.stop()
        looks.join()
