"""Which kernel modules belong to a Module, and which an unload must leave alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from kmm_common.desired import Modprobe, ModprobeArgs
from kmm_daemon import footprint
from kmm_daemon.situation import BegunLoad, PreparedImage, Situation
from kmm_daemon.values import KernelModule, KernelView, LoadedRecord, ReadyImage
from support.node import desired, ref


def view(*rows: KernelModule) -> KernelView:
    return KernelView(boot_id="b", kernel_version="6.1", modules={row.name: row for row in rows})


def row(name: str, *holders: str, build: str = "") -> KernelModule:
    return KernelModule(name=name, state="Live", holders=holders, build=build)


def record(name: str, *kernel_modules: str, **builds: str) -> LoadedRecord:
    return LoadedRecord(module=desired(name), kernel_modules=(name, *kernel_modules), builds=builds)


def image(name: str, *below: str) -> PreparedImage:
    entry = desired(name)
    return PreparedImage(
        entry=entry,
        image=ReadyImage(digest="sha256:1", root=Path("/i")),
        builds=dict.fromkeys((name, *below), "v"),
    )


def situation(*, rows=(), records=(), wanted=(), images=(), begun=()) -> Situation:
    return Situation(
        desired={ref(name): desired(name) for name in wanted},
        view=view(*rows),
        records={each.module.ref: each for each in records},
        images={each.entry.ref: each for each in images},
        begun={each.module.ref: each for each in begun},
    )


@pytest.mark.parametrize(
    ("modprobe", "in_tree", "names"),
    [
        (Modprobe(module_name="my-mod"), (), {"my_mod"}),
        (Modprobe(module_name="m", modules_loading_order=("m", "a-b")), (), {"m", "a_b"}),
        (Modprobe(module_name="m"), ("old-one",), {"m", "old_one"}),
        (
            Modprobe(raw_args=ModprobeArgs(load=("-v", "m", "x=1", "/lib"), unload=("-r", "m2"))),
            (),
            {"m", "m2"},
        ),
        (Modprobe(module_name="m", raw_args=ModprobeArgs(load=("other",))), (), {"m", "other"}),
    ],
    ids=["dash", "order", "in-tree", "raw", "raw beside a name"],
)
def test_names_of_an_entry(modprobe, in_tree, names) -> None:
    entry = replace(desired(), modprobe=modprobe, in_tree_modules_to_remove=in_tree)
    assert footprint.named(entry) == names


@pytest.mark.parametrize(
    ("names", "stands_on"),
    [(["top"], {"top", "mid", "low"}), (["mid"], {"mid", "low"}), (["low"], {"low"}), ([], set())],
)
def test_what_a_module_stands_on_is_found_down_to_the_ground(names, stands_on) -> None:
    seen = view(row("top"), row("mid", "top"), row("low", "mid"), row("other"))
    assert footprint.supported(names, seen) == stands_on


@pytest.mark.parametrize(
    ("others", "kept"),
    [
        ({}, set()),
        ({"records": [record("n", "shared")]}, {"n", "shared"}),
        ({"wanted": ["n"], "images": [image("n", "shared")]}, set()),
        (
            {
                "wanted": ["n"],
                "images": [image("n", "shared")],
                "begun": [BegunLoad(module=desired("n"), kernel_modules=("n",))],
            },
            {"shared"},
        ),
    ],
    ids=["nobody", "loaded", "still to come", "begun"],
)
def test_an_unload_keeps_what_other_modules_have_in_the_kernel(others, kept) -> None:
    going = record("m", "shared")
    records = [going, *others.pop("records", [])]
    s = situation(rows=[row("m"), row("n"), row("shared", "m", "n")], records=records, **others)
    assert footprint.keep(ref("m"), going, s) == kept


def test_an_unload_keeps_what_somebody_else_has_put_in_a_dependencys_place() -> None:
    going = record("m", "low", low="ours")
    s = situation(rows=[row("m"), row("low", "m", build="theirs")], records=[going])
    assert footprint.keep(ref("m"), going, s) == {"low"}


def test_module_that_is_merely_held_is_not_kept_so_that_its_unload_names_the_holder() -> None:
    going = record("m")
    s = situation(rows=[row("m", "n"), row("n")], records=[going, record("n")])
    assert footprint.keep(ref("m"), going, s) == {"n"}


def test_dependency_that_an_unload_left_is_inherited_by_one_who_stands_on_it() -> None:
    heirs = {each.module.ref: each for each in (record("a"), record("b"))}
    seen = view(row("a"), row("b"), row("shared", "a", "b"))
    changed = footprint.inherited(record("m", "shared", shared="v"), heirs, seen)
    ((name, heir),) = changed.items()
    assert (name, heir.kernel_modules) == (ref("a"), ("a", "shared"))
    assert heir.builds == {"shared": "v"}


def test_dependency_that_is_gone_or_accounted_for_is_inherited_by_nobody() -> None:
    gone = record("m", "shared")
    assert footprint.inherited(gone, {ref("a"): record("a")}, view(row("a"))) == {}
    known = {ref("a"): record("a", "shared")}
    assert footprint.inherited(gone, known, view(row("a"), row("shared", "a"))) == {}


def test_of_two_modules_that_need_each_other_neither_goes_first() -> None:
    s = situation(wanted=["a", "b"], images=[image("a", "b"), image("b", "a")])
    assert not footprint.needs(desired("a"), desired("b"), s)
    one_way = situation(wanted=["a", "b"], images=[image("a", "b"), image("b")])
    assert footprint.needs(desired("a"), desired("b"), one_way)
    assert not footprint.needs(desired("b"), desired("a"), one_way)
