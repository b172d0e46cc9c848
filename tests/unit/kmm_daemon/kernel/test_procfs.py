from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.errors import TransientError
from kmm_daemon.kernel.procfs import (
    KernelFiles,
    KernelReader,
    file_module,
    parse_builtin,
    parse_modules,
    permanent,
)
from kmm_daemon.values import KernelModule
from kmm_sandbox.simulated.modulefile import note

MODULES = """\
kmt_user 881 0 - Live 0x000000008619a000 (O)
kmt_core 1994 1 kmt_user, Live 0x0000000086198000 (OE)
slow 5275 1 - Loading 0x0000000098992000 (O+)
leaving 1994 -1 - Unloading 0x00000000aa989000 (O-)
overlay 108400 1 - Live 0x0000000086217000
forever 4096 0 [permanent], Live 0x0
shared 4096 2 a,b,[permanent], Live 0x0
norefs 4096 - - Live 0x0
"""


def test_rows_are_read_as_the_kernel_writes_them():
    rows = parse_modules(MODULES)
    assert rows["kmt_core"] == KernelModule(
        name="kmt_core", refcount=1, holders=("kmt_user",), taint="OE"
    )
    assert rows["slow"] == KernelModule(name="slow", state="Loading", refcount=1, taint="O")
    assert rows["leaving"].refcount == -1
    assert rows["shared"].holders == ("a", "b")
    assert rows["norefs"].refcount == 0
    assert rows["overlay"].taint == ""
    assert len(rows) == 8


@pytest.mark.parametrize(
    ("name", "expected"), [("forever", True), ("kmt_core", False), ("x", False)]
)
def test_module_without_exit_is_recognised(name, expected):
    assert permanent(MODULES, name) is expected


@given(st.text())
def test_any_text_is_read_without_an_error(text):
    assert all(name for name in parse_modules(text))
    parse_builtin(text)
    permanent(text, "x")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/fs/ext4/ext4.ko", "ext4"),
        ("extra/acme-gpu.ko.xz", "acme_gpu"),
        ("a.ko.gz", "a"),
        ("a.ko.zst", "a"),
        ("extra/a.ko.debug", ""),
        ("extra/.a.ko.cmd", ""),
        ("extra/a.ko.bz2", ""),
        ("modules.dep", ""),
        ("x.kok", ""),
    ],
)
def test_module_of_a_file_is_named_as_the_kernel_names_it(path, name):
    assert file_module(path) == name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in ("proc/sys/kernel/random", "sys/module/kmt_core", "sys/module/printk"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("b1\n")
    (tmp_path / "proc/sys/kernel/osrelease").write_text("6.1.176\n")
    (tmp_path / "proc/modules").write_text("kmt_core 1994 0 - Live 0x0 (O)\n")
    (tmp_path / "sys/module/kmt_core/initstate").write_text("live\n")
    (tmp_path / "sys/module/kmt_core/srcversion").write_text("44F7\n")
    tree = tmp_path / "lib/modules/6.1.176"
    tree.mkdir(parents=True)
    (tree / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/lib/crc-x.ko\n")
    return tmp_path


async def test_view_holds_modules_boot_kernel_and_what_is_built_in(root: Path):
    view = await KernelReader(KernelFiles(root=root)).view()
    assert (view.boot_id, view.kernel_version) == ("b1", "6.1.176")
    assert view.modules["kmt_core"].build == "44F7"
    assert view.builtin == {"ext4", "crc_x", "printk"}


BUILD_ID = note(bytes.fromhex("c2915b08"))


@pytest.mark.parametrize(
    ("state", "initstate", "shown", "expected"),
    [
        ("Live", "live", BUILD_ID, "build-id c2915b08"),
        ("Live", "live", note(b"\xc2", kind=1), ""),
        ("Live", "live", None, ""),
        ("Loading", "coming", BUILD_ID, ""),
        ("Live", "going", BUILD_ID, ""),
    ],
    ids=["live", "other note", "no note", "coming", "it went while we looked"],
)
async def test_module_without_a_srcversion_is_known_by_its_build_id_while_it_is_live(
    root: Path, state, initstate, shown, expected
):
    """One that comes or goes may have lost a srcversion, or not have got it yet."""
    shows = root / "sys/module/kmt_core"
    (shows / "srcversion").unlink()
    (shows / "initstate").write_text(initstate + "\n")
    (root / "proc/modules").write_text(f"kmt_core 1994 0 - {state} 0x0 (O)\n")
    if shown:
        (shows / "notes").mkdir()
        (shows / "notes/.note.gnu.build-id").write_bytes(shown)
    view = await KernelReader(KernelFiles(root=root)).view()
    assert view.modules["kmt_core"].build == expected


async def test_view_follows_the_kernel(root: Path):
    reader = KernelReader(KernelFiles(root=root))
    await reader.view()
    (root / "proc/modules").write_text("")
    assert (await reader.view()).modules == {}


async def test_unreadable_proc_is_named(tmp_path: Path):
    with pytest.raises(TransientError, match=r"cannot read .*boot_id: No such file"):
        await KernelReader(KernelFiles(root=tmp_path)).view()


@pytest.mark.parametrize(("content", "expected"), [("1\n", True), ("0\n", False), (None, False)])
def test_modules_disabled_is_read(root: Path, content, expected):
    if content:
        (root / "proc/sys/kernel/modules_disabled").write_text(content)
    assert KernelFiles(root=root).modules_disabled() is expected
