"""Nodes of two kernels in one cluster, told apart by what their kubelets say."""

from collections.abc import Iterator

import pytest

from kmm_sandbox import kmodimage
from support.kubelets import Kubelets
from support.stage import STATES, Stage, own_module, push_files
from support.umlrelease import FORCED, set_release

pytestmark = pytest.mark.nightly

CORE = "kmt_core"
OTHER = "node2"


@pytest.fixture
def other(stage: Stage[Kubelets], kubelets: Kubelets) -> Iterator[str]:
    """The release of one node's kernel, which no other node has: another name of the same build."""
    cluster, release = kubelets.cluster, f"{kubelets.kernel.version}-rt"
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
    mappings = [
        {"literal": plain, "containerImage": push(kubelets, plain, "v1")},
        {"regexp": "^.+-rt$", "containerImage": push(kubelets, other, "v2")},
    ]

    outcome = stage.run(
        "two-kernels",
        mappings[0]["containerImage"],
        {"moduleName": CORE, "args": FORCED},
        container={"kernelMappings": mappings},
    )
    outcome.wait_loaded()

    assert len(kubelets.nodes) > 1
    for name, node in kubelets.nodes.items():
        kernel, version = (other, "2.0") if name == OTHER else (plain, "1.0")
        assert kubelets.api.get(f"{STATES}/{name}")["status"]["kernelVersion"] == kernel
        assert node.execute("cat", f"/sys/module/{CORE}/version").check().strip() == version


def push(kubelets: Kubelets, release: str, version: str) -> str:
    """Push an image that has one version of the module, for kernels of one release."""
    kernel = kubelets.kernel
    extra = {f"{CORE}.ko": own_module(kernel.version, CORE, version)}
    files = kmodimage.kmod_files(kernel, extra=extra)
    before, after = (f"modules/{each}/" for each in (kernel.version, release))
    named = {path.replace(before, after): content for path, content in files.items()}
    return push_files(kubelets, f"kernel-{version}", named)
