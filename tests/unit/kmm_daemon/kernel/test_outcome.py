from pathlib import Path

import pytest

from kmm_common.api.names import Reason
from kmm_daemon.kernel import outcome
from kmm_daemon.kernel.contents import Contents, unavailable
from kmm_daemon.kernel.moduledir import ModuleTree
from kmm_daemon.values import KernelModule, KernelView
from support.tmpkernel import KERNEL, module


def rows(*modules: KernelModule) -> dict[str, KernelModule]:
    return {each.name: each for each in modules}


def row(name: str, *holders: str, refcount: int | None = None, **fields) -> KernelModule:
    count = len(holders) if refcount is None else refcount
    return KernelModule(name=name, refcount=count, holders=holders, **fields)


def view(*modules: KernelModule, builtin: frozenset[str] = frozenset()) -> KernelView:
    return KernelView(boot_id="b", kernel_version=KERNEL, modules=rows(*modules), builtin=builtin)


def contents(*asked: str, files: tuple[str, ...] = (), **more) -> Contents:
    tree = ModuleTree(directory=Path("/t"), files={name: f"{name}.ko" for name in files})
    return Contents(tree=tree, asked=asked, **more)


def test_missing_module_is_named_with_what_the_image_has():
    failure = unavailable(("x",), contents(files=("b", "a")).tree, view())
    assert failure is not None
    assert failure.message == "the image has no module x for kernel 6.1.176: it has a, b"


def test_name_is_available_when_image_or_kernel_has_it():
    known = view(row("live"), builtin=frozenset({"built"}))
    assert unavailable(("f", "live", "built"), contents(files=("f",)).tree, known) is None


@pytest.mark.parametrize(
    ("files", "parameters", "live", "expected"),
    [
        (("m",), (), (), Reason.BUILT_IN),
        ((), ("a=1",), (), Reason.BUILT_IN),
        ((), (), (), None),
        (("m",), (), (row("m"),), None),
    ],
)
def test_built_in_module_is_refused_when_more_than_its_presence_is_asked_for(
    files, parameters, live, expected
):
    brought, known = contents("m", files=files), view(*live, builtin=frozenset({"m"}))
    failure = outcome.built_in(module("m", parameters=parameters), brought, known)
    assert (failure.reason if failure else None) == expected
    assert outcome.needs_nothing(brought, known) is (not files and not live)


def test_in_tree_modules_make_room_with_holders_first():
    there = rows(row("low", "mid"), row("mid", "top"), row("top"))
    wanted = module("own", in_tree=("low", "nosuch", "mid", "top"))
    assert outcome.in_the_way(wanted, contents("own"), there) == ("top", "mid", "low")


def test_in_tree_name_is_found_whatever_spelling_it_has_but_not_when_it_is_the_images_own():
    there = rows(row("ac_me", build="1"), row("own", build="2"))
    wanted = module("own", in_tree=("ac-me", "own"))
    brought = contents("own", builds={"own": "2"})
    assert outcome.in_the_way(wanted, brought, there) == ("ac_me",)


@pytest.mark.parametrize(
    ("names", "group", "expected"),
    [
        (("low",), ("low", "top"), None),
        (("low",), ("low",), "low"),
        (("busy",), ("busy",), "busy"),
        (("coming",), ("coming",), "coming"),
        (("absent", "top"), ("top",), None),
    ],
)
def test_module_stays_when_something_outside_of_the_group_uses_it(names, group, expected):
    there = rows(
        row("low", "top"), row("top"), row("busy", refcount=1), row("coming", state="Loading")
    )
    found = outcome.stays(names, group, there)
    assert (found.name if found else None) == expected


def test_only_what_the_image_needs_counts_as_brought():
    brought = contents("own", unload_order=("own", "below", "shared"))
    after = rows(row("own"), row("below", "own"), row("shared"), row("udev_was_faster"))
    assert outcome.came(brought, rows(row("shared")), after) == ("own", "below")


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ((), Reason.VANISHED),
        ((row("own", state="Loading"),), Reason.TIMED_OUT),
        ((row("own", build="2"),), Reason.LOADED_FROM_ELSEWHERE),
        ((row("own", build="1"),), None),
        ((row("own"),), None),
    ],
)
def test_success_is_what_the_kernel_says(own, reason):
    failure = outcome.missing(contents("own", builds={"own": "1"}), view(*own))
    assert (failure.reason if failure else None) == reason


def test_module_of_the_loading_order_may_be_built_in():
    known = view(row("own"), builtin=frozenset({"below"}))
    assert outcome.missing(contents("own", "below"), known) is None
    assert outcome.missing(contents("own", "other"), known) is not None


def test_other_builds_below_a_module_are_found():
    there = rows(row("a", build="1"), row("b", build="9"), row("c"))
    brought = contents("own", builds={"own": "0", "a": "1", "b": "2", "c": "3"})
    assert outcome.foreign_below(brought, there) == ("b",)


def test_load_warns_of_ignored_parameters_and_of_other_builds_below():
    brought = contents("m", builds={"m": "1", "low": "1", "same": "1"})
    before = rows(row("low", build="2"), row("same", build="1"))
    assert outcome.warning(brought, (), {}) == ""
    assert outcome.warning(brought, ("a", "b"), before) == (
        "m ignores unknown parameters (a, b): correct modprobe.parameters; m stands on low in "
        "another build than the image's: unload low on a drained node, or name it in "
        "inTreeModulesToRemove, which unloads it even while its devices are at work"
    )
    assert outcome.warning(brought, ("a",), {}, "cut short") == (
        "cut short; m ignores unknown parameters (a): correct modprobe.parameters"
    )


def test_modprobe_may_remove_only_when_it_takes_nothing_else():
    tree = ModuleTree(directory=Path("/t"), files={}, needs={"own": ("a",)}, soft={"own": ("s",)})
    there = rows(row("own"), row("a", "own"), row("s"))
    assert outcome.takes_only(("own",), tree, frozenset({"own", "a", "s"}), there)
    assert not outcome.takes_only(("own",), tree, frozenset({"own", "a"}), there)
    assert not outcome.takes_only(("own",), tree, frozenset({"own", "s"}), there)
