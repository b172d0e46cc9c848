"""Which build of a module the kernel has: told by its srcversion, its build-id, or not at all."""

import lzma
from collections.abc import Callable

import pytest

from kmm_common.api import names
from kmm_daemon.kernel import modinfo
from kmm_sandbox import kmodimage
from support.modulebuilds import another_build, without_build_id
from support.stage import (
    Stage,
    build_in_kernel,
    insert,
    own_module,
    push_files,
    stock_module,
)

CORE = "kmt_core"
STOCK = "dummy"
"""As all modules of this kernel it has a build-id and no srcversion."""
Builds = Callable[[Stage], tuple[bytes, bytes]]
"""The image's module, and another build of it."""


def with_srcversion(stage: Stage) -> tuple[bytes, bytes]:
    version = stage.sandbox.kernel.version
    return own_module(version, CORE), own_module(version, CORE, "v2")


def with_build_id(stage: Stage) -> tuple[bytes, bytes]:
    ours = stock_module(stage.sandbox, STOCK)
    return ours, another_build(ours)


def push(stage: Stage, name: str, module: str, content: bytes) -> str:
    extra = {f"{module}.ko.xz": lzma.compress(content)}
    return push_files(stage.sandbox, name, kmodimage.kmod_files(stage.sandbox.kernel, extra=extra))


@pytest.mark.parametrize(
    ("module", "builds", "told_by"),
    [(CORE, with_srcversion, "srcversion"), (STOCK, with_build_id, "build-id")],
    ids=["srcversion", "build-id"],
)
def test_module_that_somebody_replaces_is_left_alone_until_it_goes(
    stage: Stage, module: str, builds: Builds, told_by: str
) -> None:
    ours, theirs = builds(stage)
    image = push(stage, f"replaced-{told_by}", module, ours)
    outcome = stage.run("replaced", image, {"moduleName": module})
    outcome.wait_loaded()
    node = stage.sandbox.nodes["node2"]
    original, steps = build_in_kernel(node, module), len(stage.steps("node1"))
    insert(node, theirs, instead_of=module)
    replaced = build_in_kernel(node, module)
    assert replaced != original
    stage.until(
        lambda: reason(stage, "node2") == "LoadedFromElsewhere", "node2 notices the other build"
    )
    key = names.ready_label("default", "replaced")
    stage.until(lambda: key not in stage.labels("node2"), "node2 loses its label")
    said = stage.report("node2", "replaced")
    assert not said.get("inKernel")
    for content in (theirs, ours):
        info = modinfo.parse(content)
        assert f"{told_by} {info.srcversion or info.build_id}" in said["error"]["message"]
    # Nobody has touched it, and nobody else has lost anything.
    assert build_in_kernel(node, module) == replaced
    assert key in stage.labels("node1")
    assert len(stage.steps("node1")) == steps
    node.execute("rmmod", module).check()
    outcome.wait_loaded()
    assert build_in_kernel(node, module) == original


def reason(stage: Stage, node: str) -> str:
    return str(stage.report(node, "replaced").get("error", {}).get("reason", ""))


def test_module_without_a_srcversion_is_adopted_where_it_is_the_images(stage: Stage) -> None:
    ours, theirs = with_build_id(stage)
    first, *others = stage.sandbox.nodes.values()
    insert(first, theirs)
    for node in others:
        insert(node, ours)
    before = {node.name: stage.steps(node.name) for node in others}
    image = push(stage, "adopted", STOCK, ours)
    outcome = stage.run("adopted", image, {"moduleName": STOCK})
    for name in before:
        stage.until(
            lambda name=name: stage.report(name, "adopted").get("state") == "Loaded",  # type: ignore[misc]
            f"{name} adopts it",
        )
    assert {name: stage.steps(name) for name in before} == before
    stage.until(lambda: "LoadedFromElsewhere" in stage.errors("adopted"), "the first one does not")
    first.execute("rmmod", STOCK).check()
    outcome.wait_loaded()


def test_module_that_cannot_be_told_from_others_is_loaded_with_a_warning(stage: Stage) -> None:
    anonymous = without_build_id(stock_module(stage.sandbox, STOCK))
    image = push(stage, "anonymous", STOCK, anonymous)
    outcome = stage.run("anonymous", image, {"moduleName": STOCK})
    outcome.wait_loaded()
    for node in stage.sandbox.nodes:
        assert stage.report(node, "anonymous")["warning"] == (
            f"{STOCK} has neither srcversion nor build-id: if somebody replaces it in the kernel, "
            "that cannot be seen"
        )
    stage.delete("anonymous")
    outcome.wait_gone()
    # Loaded by somebody else, even the image's own bytes cannot be known to be that.
    for machine in stage.sandbox.nodes.values():
        insert(machine, anonymous)
    stage.run("anonymous", image, {"moduleName": STOCK})
    message = stage.wait_failed("anonymous", "LoadedFromElsewhere")
    assert "nobody can tell whether it is the image's" in message
    for machine in stage.sandbox.nodes.values():
        machine.execute("rmmod", STOCK).check()
    outcome.wait_loaded()
