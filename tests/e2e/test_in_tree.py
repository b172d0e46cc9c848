"""Modules of the kernel's own tree that make room for those of an image, all or none."""

import lzma
from collections.abc import Callable

import pytest
import zstandard

from support.stage import Stage, insert, own_file, own_module, push_own
from support.staged import Staged, StagedNode

pytestmark = pytest.mark.spine

CORE, USER = "kmt_core", "kmt_user"
CHAIN = ("slhc", "ppp_generic", "pppox", "pppoe")
"""Modules of the kernel's own tree, each of which holds the one before it."""


def test_in_tree_module_makes_room_for_the_one_of_the_image(stage: Stage[Staged]) -> None:
    kernel = stage.sandbox.kernel.version
    for node in stage.sandbox.nodes.values():
        node.execute("insmod", own_file(kernel, CORE)).check()
    image = push_own(stage.sandbox, "instead", CORE, version="v2")
    outcome = stage.run(
        "instead", image, {"moduleName": CORE}, container={"inTreeModulesToRemove": [CORE]}
    )
    outcome.wait_loaded()
    for node in stage.sandbox.nodes.values():
        version = node.execute("cat", f"/sys/module/{CORE}/version").check()
        assert version.strip() == "2.0"


def insert_chain(stage: Stage[Staged], node: StagedNode) -> None:
    files = {path.stem: path for path in stage.sandbox.kernel.closure(CHAIN).values()}
    for name in CHAIN:
        node.execute("insmod", str(files[name])).check()


def test_in_tree_modules_that_hold_each_other_go_from_the_top(stage: Stage[Staged]) -> None:
    """Named in any order; one that is named alone stays while another one holds it."""
    for node in stage.sandbox.nodes.values():
        insert_chain(stage, node)
    image = push_own(stage.sandbox, "chain", CORE)
    wanted = {"moduleName": CORE}
    outcome = stage.run("chain", image, wanted, container={"inTreeModulesToRemove": CHAIN[:3]})
    assert "pppox is in use by module pppoe" in stage.wait_failed("chain", "InUse")
    for node in stage.sandbox.nodes.values():
        assert set(CHAIN) <= node.loaded_modules().keys()
        assert CORE not in node.loaded_modules()
    named = [CHAIN[1], CHAIN[3], CHAIN[0], CHAIN[2]]
    stage.run("chain", image, wanted, container={"inTreeModulesToRemove": named})
    outcome.wait_loaded()
    for node in stage.sandbox.nodes.values():
        assert not set(CHAIN) & node.loaded_modules().keys()


def test_in_tree_module_of_the_same_name_goes_with_what_holds_it(stage: Stage[Staged]) -> None:
    version = stage.sandbox.kernel.version
    for node in stage.sandbox.nodes.values():
        insert(node, own_module(version, CORE), own_module(version, USER))
    image = push_own(stage.sandbox, "held", CORE, version="v2")
    wanted = {"moduleName": CORE}
    outcome = stage.run("held", image, wanted, container={"inTreeModulesToRemove": [CORE]})
    assert f"{CORE} is in use by module {USER}" in stage.wait_failed("held", "InUse")
    stage.run("held", image, wanted, container={"inTreeModulesToRemove": [CORE, USER]})
    outcome.wait_loaded()
    for node in stage.sandbox.nodes.values():
        assert USER not in node.loaded_modules()
        assert node.execute("cat", f"/sys/module/{CORE}/version").check().strip() == "2.0"


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".xz", lzma.compress), (".zst", zstandard.compress)],
    ids=["xz", "zst"],
)
def test_in_tree_module_of_a_compressed_file_makes_room(
    stage: Stage[Staged], suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    theirs = compress(own_module(stage.sandbox.kernel.version, CORE))
    for node in stage.sandbox.nodes.values():
        insert(node, theirs, suffix=suffix)
    image = push_own(stage.sandbox, "packed", CORE, version="v2")
    outcome = stage.run(
        "packed", image, {"moduleName": CORE}, container={"inTreeModulesToRemove": [CORE]}
    )
    outcome.wait_loaded()
    for node in stage.sandbox.nodes.values():
        assert node.execute("cat", f"/sys/module/{CORE}/version").check().strip() == "2.0"
