from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.api.names import Reason
from kmm_daemon.kernel.moduledir import (
    ModuleTree,
    asked_for,
    find_directory,
    host_links,
    load_order,
    named_by,
    parse_dependencies,
    parse_softdeps,
    read_tree,
    shipped,
    unload_order,
)
from kmm_daemon.values import ReadyImage, StepError
from support.modulefile import write_module
from support.tmpkernel import image, module

DEP = """\
kernel/net/slhc.ko:
kernel/net/ppp_generic.ko.xz: kernel/net/slhc.ko
kernel/net/ppp-async.ko: kernel/net/ppp_generic.ko.xz kernel/net/slhc.ko
kernel/drivers/net/dummy.ko:
not a line
"""
LEFT_BY_KBUILD = (".a.ko.cmd", "a.ko.debug", "a.ko.unsigned", "a.mod.o")
TREE = parse_dependencies(Path("/t"), DEP)


def test_dependencies_are_read_by_the_kernels_names():
    assert TREE.files["ppp_async"] == "kernel/net/ppp-async.ko"
    assert TREE.needs["ppp_async"] == ("ppp_generic", "slhc")
    assert TREE.needs["dummy"] == ()
    assert len(TREE.files) == 4


def test_load_brings_what_is_needed_first_and_unload_takes_the_own_module_first():
    assert load_order(TREE, ("ppp_async",)) == ("slhc", "ppp_generic", "ppp_async")
    assert unload_order(TREE, ("ppp_async",)) == ("ppp_async", "ppp_generic", "slhc")


def test_loading_order_is_kept_both_ways():
    order = ("dummy", "ppp_async", "slhc")
    assert load_order(TREE, order) == ("slhc", "ppp_generic", "ppp_async", "dummy")
    assert unload_order(TREE, order) == ("dummy", "ppp_async", "ppp_generic", "slhc")


def test_soft_dependencies_of_the_image_come_along_when_the_image_has_them():
    soft = "# comment\nsoftdep dummy pre: ppp-async nosuch post: slhc\nalias x y\n"
    tree = parse_dependencies(Path("/t"), DEP, soft)
    assert parse_softdeps(soft) == {"dummy": ("ppp_async", "nosuch", "slhc")}
    assert unload_order(tree, ("dummy",)) == ("dummy", "ppp_async", "ppp_generic", "slhc")


NAMES = st.sampled_from("abcdef")


@given(
    st.lists(NAMES, unique=True), st.dictionaries(NAMES, st.lists(NAMES, unique=True).map(tuple))
)
def test_orders_hold_the_same_modules_once_with_the_own_one_at_its_end(order, needs):
    tree = ModuleTree(directory=Path("/t"), files={}, needs=needs)
    loaded, unloaded = load_order(tree, order), unload_order(tree, order)
    assert sorted(loaded) == sorted(unloaded)
    assert len(set(loaded)) == len(loaded)
    assert set(order) <= set(loaded)
    assert unloaded[:1] == tuple(order[:1])


@pytest.mark.parametrize(
    ("directory", "kernel"),
    [("6.1.9", "6.1.9"), ("6.1.9+", "6.1.9+"), ("6.1.9", "6.1.9+"), ("6.1.9+", "6.1.9")],
)
def test_directory_is_found_with_and_without_a_plus(tmp_path: Path, directory, kernel):
    tree = tmp_path / "opt/lib/modules" / directory
    tree.mkdir(parents=True)
    assert find_directory(ReadyImage(digest="d", root=tmp_path), "/opt", kernel) == tree


def test_exact_directory_is_taken_when_both_are_there(tmp_path: Path):
    for name in ("6.1.9", "6.1.9+"):
        (tmp_path / "opt/lib/modules" / name).mkdir(parents=True)
    found = find_directory(ReadyImage(digest="d", root=tmp_path), "/opt", "6.1.9+")
    assert found.name == "6.1.9+"


@pytest.mark.parametrize("dir_name", ["/opt", "opt/", "/../opt", "/"])
def test_image_without_the_kernel_is_refused_with_what_it_should_have(tmp_path: Path, dir_name):
    with pytest.raises(StepError, match=r"no directory (/opt)?/lib/modules/6\.1\.9") as caught:
        find_directory(ReadyImage(digest="d", root=tmp_path), dir_name, "6.1.9")
    assert caught.value.failure.reason == Reason.IMAGE_WITHOUT_KERNEL
    assert not caught.value.retry


def test_image_that_has_left_the_store_is_brought_again(tmp_path: Path):
    gone = ReadyImage(digest="sha256:1", root=tmp_path / "gone")
    with pytest.raises(StepError, match="sha256:1 left the image store") as caught:
        find_directory(gone, "/opt", "6.1.9")
    assert caught.value.failure.reason == Reason.IMAGE_PULL_FAILED
    assert caught.value.retry


def test_directory_that_is_a_link_out_of_the_image_is_not_taken(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "image/opt/lib/modules").mkdir(parents=True)
    (tmp_path / "image/opt/lib/modules/6.1.9").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StepError):
        find_directory(ReadyImage(digest="d", root=tmp_path / "image"), "/opt", "6.1.9")


def test_tree_without_an_index_is_read_from_the_files_themselves(tmp_path: Path):
    files = {"top": ("mid", "1"), "mid": ("low,other", "2"), "low": ("", "3")}
    root = image(tmp_path, files, indexed=False).root
    tree = read_tree(root / "opt/lib/modules/6.1.176")
    assert unload_order(tree, ("top",)) == ("top", "mid", "other", "low")
    assert tree.info("mid").build == "2"


def test_what_a_build_left_beside_a_module_is_no_module(tmp_path: Path):
    directory = image(tmp_path, {"a": ("", "1")}, indexed=False).root / "opt/lib/modules/6.1.176"
    left = [path.parent / name for path in directory.rglob("a.ko") for name in LEFT_BY_KBUILD]
    for path in left:
        path.write_text("cmd_a.ko := ld -r")
    assert len(left) == len(LEFT_BY_KBUILD)
    assert set(read_tree(directory).files) == {"a"}


def test_circle_of_dependencies_is_cut(tmp_path: Path):
    root = image(tmp_path, {"a": ("b", ""), "b": ("a", "")}, indexed=False).root
    assert read_tree(root / "opt/lib/modules/6.1.176").needs == {"a": ("b",), "b": ("a",)}


def test_file_that_only_the_index_has_is_named(tmp_path: Path):
    tree = parse_dependencies(tmp_path, "extra/gone.ko:\n")
    with pytest.raises(StepError, match=r"names extra/gone\.ko, which it does not have"):
        tree.info("gone")


@pytest.fixture
def linked(tmp_path: Path) -> tuple[Path, Path]:
    """Return the directory of an image that knows the host's modules as `host`, and the host's."""
    directory, there = tmp_path / "image", tmp_path / "modules"
    (directory / "extra").mkdir(parents=True)
    (there / "kernel").mkdir(parents=True)
    write_module(directory / "extra", "top", depends="low", srcversion="1")
    write_module(there / "kernel", "low", srcversion="2")
    lines = "extra/top.ko: host/kernel/low.ko\nhost/kernel/low.ko:\nextra/gone.ko:\n"
    (directory / "modules.dep").write_text(lines)
    (directory / "modules.dep.bin").write_bytes(b"index")
    return directory, there


def test_module_behind_a_link_to_the_hosts_modules_is_the_hosts(linked):
    directory, there = linked
    tree = read_tree(directory, (there.parent / "absent", there))
    assert (tree.info("top").build, tree.info("low").build) == ("1", "2")
    assert host_links(directory, (there.parent / "absent", there)) == {"host": there}
    assert shipped(tree) == ("top", "gone")


def test_nothing_of_the_host_stands_for_what_the_image_should_have_itself(linked):
    directory, there = linked
    write_module(there, "gone")
    with pytest.raises(StepError, match=r"names extra/gone\.ko, which it does not have"):
        read_tree(directory, (there,)).info("gone")


def test_host_without_that_module_leaves_it_missing(linked):
    directory, there = linked
    (there / "kernel/low.ko").unlink()
    with pytest.raises(StepError, match=r"names host/kernel/low\.ko, which it does not have"):
        read_tree(directory, (there,)).info("low")
    assert host_links(directory, ()) == {}


def test_damaged_module_is_named(tmp_path: Path):
    path = write_module(tmp_path, "bad")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StepError, match=r"bad\.ko of the image is truncated") as caught:
        parse_dependencies(tmp_path, "bad.ko:\n").info("bad")
    assert caught.value.failure.reason == Reason.INVALID_MODULE


def test_module_asks_for_itself_and_its_loading_order():
    assert asked_for(module("a-b", modules_loading_order=("a-b", "c-d"))) == ("a_b", "c_d")
    assert asked_for(module("a")) == ("a",)


def test_raw_arguments_name_modules_of_the_tree():
    words = ("-d", "/opt", "--", "ppp-async", "dummy", "numdummies=2", "ppp_async")
    assert named_by(words, TREE) == ("ppp_async", "dummy")
