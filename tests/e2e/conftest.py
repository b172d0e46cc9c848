"""The e2e tier: one cluster with three real kernels for the whole session."""

from collections.abc import Iterator

import pytest

from kmm_sandbox import namespaces
from kmm_sandbox.binaries import find_binaries
from kmm_sandbox.process.sandbox import Sandbox
from kmm_sandbox.progress import Progress
from support import rights
from support.onkubelets import KUBELETS
from support.stage import Stage, on_stage
from support.staged import Staged


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Kubernetes, registry, control plane and three nodes with their daemons."""
    namespaces.require_inside()
    progress = Progress()
    directory = tmp_path_factory.mktemp("sandbox")
    running = Sandbox.start(
        directory, find_binaries(progress), progress=progress, nodes=3, leashed=False
    )
    try:
        yield running
        rights.leave(running.plane.layout.audit_log)
    finally:
        running.stop()


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Iterator[Stage[Staged]]:
    """A stage whose Modules are taken away at the end; nothing was a lie, no promise broken."""
    nodes = "kubelets" if request.config.getoption(KUBELETS) else "sandbox"
    with on_stage(request.getfixturevalue(nodes)) as stage:
        yield stage
