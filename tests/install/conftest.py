"""The nodes of these tests have real kubelets."""

from collections.abc import Iterator

import pytest

from kmm_sandbox.cluster.cluster import Cluster
from support.kubelets import Kubelets
from support.stage import Stage, on_stage


@pytest.fixture
def cluster(kubelet_cluster: Cluster) -> Cluster:
    """The cluster, with or without KMM."""
    return kubelet_cluster


@pytest.fixture
def stage(kubelets: Kubelets) -> Iterator[Stage[Kubelets]]:
    """A stage whose Modules are taken away at the end; nothing was a lie, no promise broken."""
    with on_stage(kubelets) as stage:
        yield stage
