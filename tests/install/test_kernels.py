"""Nodes of two kernels in one cluster, told apart by what their kubelets say."""

from collections.abc import Iterator

import pytest

from support.kubelets import Kubelets
from support.stage import STATES, Stage, push_own
from support.umlrelease import set_release

pytestmark = pytest.mark.nightly

CORE = "kmt_core"
OTHER = "node2"


@pytest.fixture
def other(stage: Stage[Kubelets], kubelets: Kubelets) -> Iterator[str]:
    """The release of one node's kernel, which no other node has; `uname -r` of the same build."""
    cluster, release = kubelets.cluster, f"{kubelets.kernel.version}+"
    set_release(cluster.nodes[OTHER].machine, release)
    kubelets.nodes[OTHER].restart_daemon()
    stage.until(
        lambda: cluster.node_info(OTHER)["kernelVersion"] == release,
        f"kubelet of {OTHER} says {release}",
    )
    yield release
    stage.clear()
    cluster.power_cycle(OTHER)


def test_each_kernel_gets_the_image_of_its_mapping(
    stage: Stage[Kubelets], kubelets: Kubelets, other: str
) -> None:
    plain = kubelets.kernel.version
    images = {
        version: push_own(kubelets, "two-kernels", CORE, version=version)
        for version in ("v1", "v2")
    }
    mappings = [
        {"literal": plain, "containerImage": images["v1"]},
        {"regexp": r"^.+\+$", "containerImage": images["v2"]},
    ]

    outcome = stage.run(
        "two-kernels",
        images["v1"],
        {"moduleName": CORE},
        container={"kernelMappings": mappings},
    )
    outcome.wait_loaded()

    assert len(kubelets.nodes) > 1
    for name, node in kubelets.nodes.items():
        kernel, version = (other, "2.0") if name == OTHER else (plain, "1.0")
        assert kubelets.api.get(f"{STATES}/{name}")["status"]["kernelVersion"] == kernel
        assert node.execute("cat", f"/sys/module/{CORE}/version").check().strip() == version
