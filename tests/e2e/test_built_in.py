"""Modules that are compiled into the kernel: nothing to load, and nothing to replace."""

import pytest

from kmm_common.api import names
from kmm_sandbox import kmodimage
from support.stage import Stage, own_file, own_module, push_files, push_own

CORE = "kmt_core"
BUILT_IN = "ext4"


def test_module_that_is_built_in_is_ready_without_being_loaded(stage: Stage) -> None:
    assert BUILT_IN in stage.sandbox.kernel.builtin()
    image = push_own(stage.sandbox, "built-in", CORE)
    outcome = stage.run("inside", image, {"moduleName": BUILT_IN})
    stage.until(outcome.says_loaded, "all nodes say that it is loaded")
    outcome.wait_settled()
    key = names.ready_label("default", "inside")
    for name, node in stage.sandbox.nodes.items():
        assert stage.report(name, "inside")["inKernel"]
        assert key in stage.labels(name)
        assert CORE not in node.loaded_modules()
    stage.delete("inside")
    outcome.wait_gone()


@pytest.mark.parametrize(
    ("modprobe", "shipped", "told"),
    [
        ({"moduleName": BUILT_IN}, BUILT_IN, "the image's module cannot replace it"),
        (
            {"moduleName": BUILT_IN, "parameters": ["a=1"]},
            CORE,
            "parameters for it belong on the kernel command line",
        ),
    ],
    ids=["another build", "parameters"],
)
def test_more_than_the_presence_of_what_is_built_in_is_refused(
    stage: Stage, modprobe: dict[str, object], shipped: str, told: str
) -> None:
    kernel = stage.sandbox.kernel
    extra = {f"{shipped}.ko": own_module(kernel.version, CORE)}
    image = push_files(stage.sandbox, "more", kmodimage.kmod_files(kernel, extra=extra))
    stage.run("more", image, modprobe)
    message = stage.wait_failed("more", "BuiltIn")
    assert f"{BUILT_IN} is built into kernel {kernel.version}: {told}" in message
    for node in stage.sandbox.nodes:
        assert names.ready_label("default", "more") not in stage.labels(node)


@pytest.mark.parametrize("indexed", [True, False], ids=["modules.dep", "no modules.dep"])
def test_dependency_may_be_built_in_or_in_the_kernel_already(stage: Stage, indexed: bool) -> None:
    """The image has neither: what its module stands on is the kernel's own, or somebody else's."""
    sandbox, user = stage.sandbox, "kmt_user"
    extra = {f"{user}.ko": own_module(sandbox.kernel.version, user)}
    files = kmodimage.kmod_files(sandbox.kernel, extra=extra, depmod=indexed)
    for node in sandbox.nodes.values():
        node.execute("insmod", own_file(sandbox.kernel.version, CORE)).check()
    name = f"above{indexed}".lower()
    outcome = stage.run(
        name,
        push_files(sandbox, name, files),
        {"moduleName": user, "modulesLoadingOrder": [user, BUILT_IN]},
    )
    outcome.wait_loaded()
    stage.delete(name)
    outcome.wait_gone()
    for node in sandbox.nodes.values():
        # It was there before the Module: it is not the Module's to take out.
        assert CORE in node.loaded_modules()
        node.execute("rmmod", CORE).check()
