import os
from pathlib import Path

import pytest

from kmm_daemon.kernel.usage import users


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root whose process 7 has /dev/null open, which sysfs there calls by other names."""
    (tmp_path / "proc/7/fd").mkdir(parents=True)
    (tmp_path / "proc/7/comm").write_text("pppd\n")
    (tmp_path / "proc/7/fd/3").symlink_to("/dev/null")
    (tmp_path / "proc/7/fd/4").symlink_to("/etc")
    (tmp_path / "proc/7/fd/5").symlink_to("/gone")
    (tmp_path / "proc/1").mkdir()
    (tmp_path / "proc/1/mountinfo").write_text(
        "23 1 0:21 / /sys/kernel/config rw,nosuid shared:10 - configfs configfs rw\n"
        "24 1 0:22 / /mnt rw - fuse.x x rw\n"
    )
    return tmp_path


def device(root: Path, name: str, *, driver: str = "") -> None:
    """Make sysfs call /dev/null by a name."""
    place = root / "sys/devices/virtual" / name
    (root / "sys/class" / name.rstrip("0123456789")).mkdir(parents=True)
    place.mkdir(parents=True)
    (place / "subsystem").symlink_to(root / "sys/class" / name.rstrip("0123456789"))
    number = Path("/dev/null").stat().st_rdev
    (root / "sys/dev/char").mkdir(parents=True)
    (root / "sys/dev/char" / f"{os.major(number)}:{os.minor(number)}").symlink_to(place)
    if driver:
        (root / "sys/module" / driver).mkdir(parents=True)
        (place / "device/driver").mkdir(parents=True)
        (place / "device/driver/module").symlink_to(root / "sys/module" / driver)


@pytest.mark.parametrize(
    ("device_name", "module"), [("ppp", "ppp_generic"), ("kmt_core", "kmt_core"), ("zram0", "zram")]
)
def test_process_with_a_virtual_device_open_is_found_by_the_name(root, device_name, module):
    device(root, device_name)
    assert users(module, root) == ("pppd (process 7) with /dev/null",)
    assert users("other", root) == ()


def test_process_is_found_by_the_module_of_the_devices_driver(root: Path):
    device(root, "card0", driver="acme_gpu")
    assert users("acme_gpu", root) == ("pppd (process 7) with /dev/null",)
    assert users("card", root) == ()


def test_no_file_system_is_asked_about_a_file_that_is_no_device(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    """That of a server that is gone would not answer."""
    device(root, "ppp")
    asked = []
    original = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        asked.append(path)
        return original(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert users("ppp_generic", root) == ("pppd (process 7) with /dev/null",)
    descriptors = [path for path in asked if path.parent.name == "fd"]
    assert descriptors == [root / "proc/7/fd/3"]


def test_mount_of_the_modules_file_system_is_found(root: Path):
    assert users("configfs", root) == ("the mount at /sys/kernel/config",)


def test_long_list_is_cut(root: Path):
    device(root, "ppp")
    for pid in range(10, 20):
        (root / f"proc/{pid}/fd").mkdir(parents=True)
        (root / f"proc/{pid}/fd/0").symlink_to("/dev/null")
    found = users("ppp_generic", root)
    assert len(found) == 6
    assert found[-1] == "others"


def test_nothing_is_found_where_there_is_no_proc(tmp_path: Path):
    assert users("x", tmp_path) == ()
