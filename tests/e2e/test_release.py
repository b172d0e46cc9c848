"""A kernel whose release ends in `+`: image builders know it without, or with it."""

from collections.abc import Iterator

import pytest

from kmm_sandbox import kmodimage
from kmm_sandbox.process.node import Node
from support.stage import STATES, Stage, own_module, push_files
from support.umlrelease import FORCED, set_release

CORE = "kmt_core"


@pytest.fixture
def node(stage: Stage) -> Iterator[Node]:
    """A node that runs a kernel with a `+`, as its daemon, its kubelet and the cluster see it."""
    machine, plain = stage.sandbox.nodes["node3"], stage.sandbox.kernel.version
    call(stage, machine, f"{plain}+")
    yield machine
    stage.clear()
    call(stage, machine, plain)


def call(stage: Stage, node: Node, release: str) -> None:
    set_release(node.machine, release)
    assert node.execute("uname", "-r").check().strip() == release
    node.restart_daemon()
    stage.until(lambda: reported_kernel(stage, node) == release, f"{node.name} runs {release}")


def reported_kernel(stage: Stage, node: Node) -> str:
    state = stage.sandbox.api.find(f"{STATES}/{node.name}") or {}
    return str((state.get("status") or {}).get("kernelVersion"))


@pytest.mark.parametrize(
    ("with_plus", "version"), [(False, "1.0"), (True, "2.0")], ids=["without", "both"]
)
def test_kernel_with_a_plus_loads_from_the_directory_that_the_image_has(
    stage: Stage, node: Node, with_plus: bool, version: str
) -> None:
    """The other nodes, without a plus, take the directory without it."""
    kernel = stage.sandbox.kernel
    files = kmodimage.kmod_files(kernel, extra={f"{CORE}.ko": own_module(kernel.version, CORE)})
    if with_plus:
        other = {f"{CORE}.ko": own_module(kernel.version, CORE, "v2")}
        plain, plus = f"modules/{kernel.version}/", f"modules/{kernel.version}+/"
        exact = kmodimage.kmod_files(kernel, extra=other)
        files |= {path.replace(plain, plus): content for path, content in exact.items()}
    name = f"plus{with_plus}".lower()
    modprobe = {"moduleName": CORE, "args": FORCED}
    outcome = stage.run(name, push_files(stage.sandbox, name, files), modprobe)
    outcome.wait_loaded()
    assert loaded_version(node) == version
    assert loaded_version(stage.sandbox.nodes["node1"]) == "1.0"
    stage.delete(name)
    outcome.wait_gone()


def loaded_version(node: Node) -> str:
    return node.execute("cat", f"/sys/module/{CORE}/version").check().strip()
