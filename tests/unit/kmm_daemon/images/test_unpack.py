import gzip
import tarfile
from pathlib import Path

import pytest

from kmm_common.oci.errors import InvalidImageError
from support.images import listing
from support.layers import (
    KERNEL,
    MODULES,
    directory,
    file,
    hardlink,
    layer,
    module,
    special,
    symlink,
    tar,
    zstd_layer,
)


@pytest.mark.parametrize("pack", [tar, layer, zstd_layer])
def test_only_the_kernels_directory_comes_out_whatever_the_compression(unpacked, pack):
    root = unpacked(pack(module(), file("etc/passwd"), file("opt/lib/modules/5.4/b.ko")))
    assert listing(root) == {f"{MODULES}/a.ko"}
    assert (root / MODULES / "a.ko").read_bytes() == b"ko"


def test_firmware_comes_out_too_when_a_path_is_given(unpacked):
    root = unpacked(layer(module(), file("firmware/x/b.bin")), firmware_path="/firmware/")
    assert listing(root) == {f"{MODULES}/a.ko", "firmware/x/b.bin"}


@pytest.mark.parametrize("prefix", ["", "./", ".//"])
def test_names_are_normalised(unpacked, prefix):
    assert listing(unpacked(layer(file(f"{prefix}{MODULES}//a.ko")))) == {f"{MODULES}/a.ko"}


def test_a_kernel_with_a_plus_finds_the_directory_without_it(unpacked):
    root = unpacked(layer(module()), kernel_version=f"{KERNEL}+")
    assert (root / f"{MODULES}+" / "a.ko").read_bytes() == b"ko"


def test_the_directory_with_the_plus_wins_when_there_are_both(unpacked):
    root = unpacked(
        layer(module(content=b"without"), file(f"{MODULES}+/a.ko", b"with")),
        kernel_version=f"{KERNEL}+",
    )
    assert (root / f"{MODULES}+" / "a.ko").read_bytes() == b"with"


HOSTILE = {
    "dotdot": ([file("../evil")], "'..' in its path", "from the image's root"),
    "dotdot within": (
        [file(f"{MODULES}/../../../../../evil")],
        "'..' in its path",
        "from the image's root",
    ),
    "absolute": ([file(f"/{MODULES}/evil.ko")], "absolute path", "without the leading slash"),
    "link out of the image": (
        [symlink(f"{MODULES}/l", "../" * 9 + "etc")],
        "out of the image",
        "point it to a file of the image",
    ),
    "absolute link": ([symlink(f"{MODULES}/l", "/etc/passwd")], "outside of", "put a copy"),
    "link to a sibling": (
        [symlink(f"{MODULES}/l", f"../{KERNEL}-evil/x")],
        "outside of",
        "put a copy",
    ),
    "write through a link": (
        [symlink(f"{MODULES}/l", "."), file(f"{MODULES}/l/evil")],
        "beneath a link",
        "make that a directory",
    ),
    "write through a link on the way": (
        [symlink("opt/lib/modules", "../../.."), file(f"{MODULES}/evil")],
        "out of the image",
        "point it to a file of the image",
    ),
    "hard link to a link": (
        [symlink(f"{MODULES}/l", "a.ko"), hardlink(f"{MODULES}/h", f"{MODULES}/l")],
        "not a file",
        "put the file itself",
    ),
    "hard link out": (
        [hardlink(f"{MODULES}/h", "../../etc/passwd")],
        "'..' in its path",
        "from the image's root",
    ),
    "hard link elsewhere": ([hardlink(f"{MODULES}/h", "etc/passwd")], "outside of", "put a copy"),
    "hard link to nothing": (
        [hardlink(f"{MODULES}/h", f"{MODULES}/no")],
        "not a file",
        "put the file itself",
    ),
    "character device": (
        [special(f"{MODULES}/d", tarfile.CHRTYPE)],
        "character device",
        "leave it out",
    ),
    "block device": ([special(f"{MODULES}/d", tarfile.BLKTYPE)], "block device", "leave it out"),
    "fifo": ([special(f"{MODULES}/d", tarfile.FIFOTYPE)], "named pipe", "leave it out"),
    "unknown kind": ([special(f"{MODULES}/d", b"Z")], "unknown kind", "leave it out"),
    "long component": (
        [file(f"{MODULES}/{'x' * 300}")],
        "no file can have",
        "rename it to at most 255 bytes",
    ),
    "deep path": ([file(f"{MODULES}/{'d/' * 100}x")], "too long a path", "keep to 64 directories"),
    "link to the root": ([symlink(MODULES, "/")], "the image's root", "correct dirName"),
    "links in a circle": (
        [symlink("opt/lib/modules", "m2"), symlink("opt/lib/m2", "modules")],
        "circle",
        "put a directory in place",
    ),
    "whiteout of dotdot": (
        [file(f"{MODULES}/.wh...")],
        "whiteout of nothing",
        "build that layer anew",
    ),
}


@pytest.mark.parametrize(("members", "told", "remedy"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_member_is_refused_and_named_with_what_helps(
    unpacked, tmp_path, members, told, remedy
):
    before = set(Path("/").iterdir())
    with pytest.raises(InvalidImageError, match=told) as caught:
        unpacked(layer(module(), *members))
    assert remedy in str(caught.value).rpartition("; ")[2]
    assert len(str(caught.value)) < 500
    assert set(Path("/").iterdir()) == before
    assert not list(tmp_path.rglob("evil*"))
    assert all(path.resolve().is_relative_to(tmp_path) for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6777, 0o644, 0o000])
def test_special_bits_and_write_rights_are_dropped(unpacked, mode):
    root = unpacked(layer(file(f"{MODULES}/a.ko", mode=mode)))
    got = (root / MODULES / "a.ko").stat().st_mode & 0o7777
    assert got == (0o755 if mode & 0o111 else 0o644)


def test_devices_outside_of_what_is_taken_do_no_harm(unpacked):
    root = unpacked(layer(module(), special("dev/null", tarfile.CHRTYPE)))
    assert listing(root) == {f"{MODULES}/a.ko"}


def test_links_within_the_kernels_directory_are_kept(unpacked):
    root = unpacked(
        layer(
            module(),
            symlink(f"{MODULES}/x/rel.ko", "../a.ko"),
            symlink(f"{MODULES}/abs.ko", f"/{MODULES}/a.ko"),
            hardlink(f"{MODULES}/hard.ko", f"{MODULES}/a.ko"),
        )
    )
    for name in ("x/rel.ko", "abs.ko", "hard.ko"):
        assert (root / MODULES / name).read_bytes() == b"ko"
    assert not (root / MODULES / "abs.ko").readlink().is_absolute()


def test_links_to_the_kernels_headers_are_left_out(unpacked):
    root = unpacked(
        layer(
            module(),
            symlink(f"{MODULES}/build", "/usr/src/linux"),
            symlink(f"{MODULES}/source", "/usr/src/linux"),
        )
    )
    assert listing(root) == {f"{MODULES}/a.ko"}


@pytest.mark.parametrize("tree", ["lib/modules", "usr/lib/modules"])
def test_link_to_the_hosts_modules_is_left_out(unpacked, tree):
    """Upstream's images have it, so that depmod sees the kernel's own modules."""
    link = symlink(f"{MODULES}/host", f"/{tree}/{KERNEL}")
    assert listing(unpacked(layer(module(), link))) == {f"{MODULES}/a.ko"}


def test_link_to_the_hosts_modules_is_left_out_where_the_images_own_have_the_same_path(unpacked):
    own = f"lib/modules/{KERNEL}"
    root = unpacked(layer(file(f"{own}/a.ko"), symlink(f"{own}/host", f"/{own}")), dir_name="/")
    assert listing(root) == {f"{own}/a.ko"}


@pytest.mark.parametrize(
    ("at", "target"),
    [("host", "/lib/modules/5.4"), ("x/host", f"/lib/modules/{KERNEL}"), ("host", "/lib/modules")],
    ids=["of another kernel", "further down", "all kernels"],
)
def test_other_links_to_the_hosts_modules_are_refused(unpacked, at, target):
    with pytest.raises(InvalidImageError, match="which is outside of"):
        unpacked(layer(module(), symlink(f"{MODULES}/{at}", target)))


def test_a_merged_usr_is_followed_even_when_the_link_comes_last(unpacked):
    real = f"usr/lib/modules/{KERNEL}"
    root = unpacked(layer(file(f"{real}/a.ko")), layer(symlink("lib", "usr/lib")), dir_name="/")
    assert (root / "lib/modules" / KERNEL / "a.ko").read_bytes() == b"ko"
    assert (root / "lib").is_symlink()


def test_a_file_beneath_a_link_on_the_way_lands_where_the_link_leads(unpacked):
    root = unpacked(
        layer(symlink("lib", "usr/lib")), layer(file(f"lib/modules/{KERNEL}/a.ko")), dir_name="/"
    )
    assert (root / "usr/lib/modules" / KERNEL / "a.ko").read_bytes() == b"ko"


def test_a_kernels_directory_that_is_a_link_is_followed(unpacked):
    root = unpacked(layer(file("opt/lib/modules/real/a.ko"), symlink(MODULES, "real")))
    assert (root / MODULES / "a.ko").read_bytes() == b"ko"


LAYERS = {
    "a file is replaced": ([module(content=b"1")], [module(content=b"2")], {"a.ko": b"2"}),
    "a whiteout removes": ([module(), module("b.ko")], [file(f"{MODULES}/.wh.a.ko")], {"b.ko"}),
    "a whiteout spares its own layer": (
        [module(content=b"1")],
        [module(content=b"2"), file(f"{MODULES}/.wh.a.ko")],
        {"a.ko": b"2"},
    ),
    "a whiteout of a directory removes all of it": (
        [module("x/a.ko"), module("b.ko")],
        [file(f"{MODULES}/.wh.x")],
        {"b.ko"},
    ),
    "a whiteout above removes the whole": (
        [module()],
        [file("opt/.wh.lib"), module("n.ko")],
        {"n.ko"},
    ),
    "an opaque directory hides what lies below": (
        [module(), module("x/b.ko")],
        [module("x/n.ko"), file(f"{MODULES}/x/.wh..wh..opq")],
        {"a.ko", "x/n.ko"},
    ),
    "an opaque directory above hides the whole": (
        [module()],
        [file("opt/lib/.wh..wh..opq"), module("n.ko")],
        {"n.ko"},
    ),
    "a directory replaces a file": ([module("x")], [module("x/a.ko")], None),
    "a file replaces a directory": ([module("x/a.ko")], [module("x")], {"x"}),
    "a file above replaces the whole": ([module()], [file("opt/lib"), directory("opt/lib")], set()),
    "the last of equal names wins": (
        [module(content=b"1"), module(content=b"2")],
        [],
        {"a.ko": b"2"},
    ),
    "other marks of aufs are no files": ([module()], [file(f"{MODULES}/.wh..wh.plnk")], {"a.ko"}),
}


@pytest.mark.parametrize(("lower", "upper", "expected"), LAYERS.values(), ids=LAYERS)
def test_layers_are_put_on_top_of_each_other(unpacked, lower, upper, expected):
    if expected is None:
        with pytest.raises(InvalidImageError, match="beneath"):
            unpacked(layer(*lower), layer(*upper))
        return
    root = unpacked(layer(*lower), layer(*upper))
    assert listing(root) == {f"{MODULES}/{name}" for name in expected}
    if isinstance(expected, dict):
        for name, content in expected.items():
            assert (root / MODULES / name).read_bytes() == content


def test_a_directory_entry_replaces_a_file_of_a_lower_layer(unpacked):
    root = unpacked(layer(module("x")), layer(directory(f"{MODULES}/x"), module("x/a.ko")))
    assert listing(root) == {f"{MODULES}/x/a.ko"}


@pytest.mark.parametrize(
    "content",
    [b"", b"not a tar" * 200, b"\x1f\x8bgarbage", b"\x28\xb5\x2f\xfdgarbage", layer(module())[:40]],
    ids=["empty", "text", "gzip", "zstd", "cut"],
)
def test_a_damaged_layer_is_refused(unpacked, content):
    with pytest.raises(InvalidImageError, match="not a readable tar"):
        unpacked(content)


def test_a_gzip_in_a_gzip_is_refused(unpacked):
    with pytest.raises(InvalidImageError, match="not a readable tar"):
        unpacked(gzip.compress(layer(module())))
