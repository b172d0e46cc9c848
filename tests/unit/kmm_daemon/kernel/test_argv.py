from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.api.names import Reason
from kmm_common.desired import Modprobe, ModprobeArgs
from kmm_daemon.kernel import argv
from kmm_daemon.kernel.argv import Place
from support.tmpkernel import module

PLACE = Place(
    root=Path("/run/m/root"), config=Path("/run/m/config"), dir_name="/opt", tree="6.1.176"
)
WORKER = "/tmp"  # noqa: S108
"""Where upstream's worker has the files of an image."""
WHERE = ["-d", "/run/m/root/opt", "-S", "6.1.176", "-C", "/run/m/config"]


def test_load_names_directory_kernel_and_config_and_ends_the_options_before_the_name():
    wanted = module("acme-gpu", parameters=("a=1", "-b"), args=ModprobeArgs(load=("--first-time",)))
    expected = ["mp", *WHERE, "--first-time", "--", "acme-gpu", "a=1", "-b"]
    assert argv.load("mp", wanted, PLACE) == expected


def test_unload_names_the_whole_loading_order():
    wanted = module("a", modules_loading_order=("a", "b", "c"), args=ModprobeArgs(unload=("-v",)))
    assert argv.unload("mp", wanted, PLACE) == ["mp", "-r", *WHERE, "-v", "--", "a", "b", "c"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("-d", "/opt", "m"), ["-d", "/run/m/root/opt", "m"]),
        (("-vd", "/opt", "m", "x=/opt"), ["-vd", "/run/m/root/opt", "m", "x=/opt"]),
        (("-vd/opt", "m"), ["-vd/run/m/root/opt", "m"]),
        (("--dirname=/other", "m"), ["--dirname=/run/m/root/other", "m"]),
        (("--dirname", "../../opt", "m"), ["--dirname", "/run/m/root/opt", "m"]),
        (("-d", WORKER + "/opt", "m"), ["-d", "/run/m/root/opt", "m"]),
        (("-d", WORKER + "/else", "m"), ["-d", f"/run/m/root{WORKER}/else", "m"]),
        (("-S", "d", "-C", "/conf", "m"), ["-S", "d", "-C", "/conf", "m"]),
        (("-Cd", "/opt", "m"), ["-Cd", "/opt", "m"]),
        (("--config", "-d", "/opt", "m"), ["--config", "-d", "/opt", "m"]),
        (("--", "-d", "/opt"), ["--", "-d", "/opt"]),
        (("-d",), ["-d"]),
        (("m",), ["m"]),
    ],
)
def test_directory_of_raw_arguments_is_the_images(words, expected):
    raw = replace(module(""), modprobe=Modprobe(raw_args=ModprobeArgs(load=words, unload=words)))
    assert argv.load("mp", raw, PLACE) == ["mp", *expected]
    assert argv.unload("mp", raw, PLACE) == ["mp", *expected]


@given(st.lists(st.text("-dCS=/opt.", max_size=6)).map(tuple))
def test_raw_arguments_are_only_ever_changed_to_paths_below_the_image(words):
    changed = argv.in_image(words, PLACE)
    assert len(changed) == len(words)
    for old, new in zip(words, changed, strict=True):
        assert new == old or (str(PLACE.root) in new and ".." not in new.split("/"))


def test_loading_order_becomes_a_chain_of_soft_dependencies():
    probe = Modprobe(module_name="a", modules_loading_order=("a", "b", "c"))
    assert argv.softdeps(probe) == "softdep a pre: b\nsoftdep b pre: c\n"
    assert argv.softdeps(Modprobe(module_name="a")) == ""


@pytest.mark.parametrize(
    ("wanted", "reason", "field"),
    [
        (module("../x"), Reason.INVALID_MODULE, "modprobe.moduleName"),
        (module("-r"), Reason.INVALID_MODULE, "modprobe.moduleName"),
        (module("a" * 56), Reason.INVALID_MODULE, "modprobe.moduleName"),
        (module("a b"), Reason.INVALID_MODULE, "modprobe.moduleName"),
        (module(""), Reason.INVALID_MODULE, "modprobe.moduleName"),
        (module("a", in_tree=("b\n",)), Reason.INVALID_MODULE, "inTreeModulesToRemove"),
        (
            module("a", modules_loading_order=("a", "")),
            Reason.INVALID_MODULE,
            "modulesLoadingOrder",
        ),
        (module("a", parameters=("x=1\0",)), Reason.BAD_PARAMETER, "modprobe.parameters"),
        (module("a", parameters=("",)), Reason.BAD_PARAMETER, "modprobe.parameters"),
        (module("a", args=ModprobeArgs(load=("\n",))), Reason.BAD_PARAMETER, "modprobe.args.load"),
    ],
)
def test_unusable_input_is_refused_with_its_field(wanted, reason, field):
    failure = argv.invalid(wanted)
    assert failure is not None
    assert failure.reason == reason
    assert field in failure.message


@pytest.mark.parametrize(
    "wanted",
    [
        module("acme-gpu_2", parameters=("a=b c", "d"), in_tree=("x",)),
        replace(module(""), modprobe=Modprobe(raw_args=ModprobeArgs(load=("m",), unload=("-r",)))),
    ],
)
def test_usable_input_is_accepted(wanted):
    assert argv.invalid(wanted) is None


@given(st.text())
def test_directories_of_an_image_never_lead_out_of_it(directory):
    inside = argv.normalised(directory)
    assert inside.startswith("/")
    assert not inside.startswith("//")
    assert ".." not in inside.split("/")
