"""Which packages and files of Debian's become an image."""

from pathlib import Path

import pytest

from images import rootfs

STATUS = """\
Package: kmod
Status: install ok installed
Architecture: amd64
Version: 30+20221128-1
Depends: libc6 (>= 2.34), libkmod2:amd64 (= 30), debconf (>= 0.5) | debconf-2.0
Description: tools for managing kernel modules
 More of it.

Package: libkmod2
Status: install ok installed
Pre-Depends: libc-virtual
Version: 30+20221128-1

Package: libc6
Status: install ok installed
Provides: libc-virtual (= 1)
Version: 2.36-9
Depends: gone-1 | libgcc-s1

Package: libgcc-s1
Status: install ok installed
Depends: libc6 (>= 2.35)
Version: 12.2.0-14

Package: removed
Status: deinstall ok config-files
Version: 1

Package: unrelated
Status: install ok installed
Version: 1
"""


def test_what_others_depend_on_is_taken_alternatives_and_provided_names_too() -> None:
    installed = rootfs.stanzas(STATUS)
    assert rootfs.closure(["kmod"], installed) == ["kmod", "libc6", "libgcc-s1", "libkmod2"]
    assert installed["kmod"]["Description"].endswith("\n More of it.")


def test_package_that_is_not_installed_is_told_by_its_name() -> None:
    for name in ("nowhere", "removed"):
        with pytest.raises(SystemExit, match=f"^{name} is not installed in the base"):
            rootfs.closure([name], rootfs.stanzas(STATUS))


@pytest.mark.parametrize(
    ("path", "stays"),
    [
        ("/usr/lib/python3.11/lib-dynload/_sqlite3.cpython-311-x86_64-linux-gnu.so", False),
        ("/usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so", True),
        ("/usr/lib/python3.11/pydoc_data/topics.py", False),
        ("/usr/share/doc/kmod/copyright", True),
        ("/usr/share/doc/libgcc-s1", True),
        ("/usr/share/doc/kmod/changelog.Debian.gz", False),
        ("/etc/init.d/kmod", False),
        ("/bin/kmod", True),
        ("/usr/lib/x86_64-linux-gnu/gconv/UTF-16.so", False),
        ("/lib/x86_64-linux-gnu/libc.so.6", True),
    ],
)
def test_documentation_and_what_only_sets_up_stays_behind(path: str, stays: bool) -> None:
    assert (rootfs.LEFT_OUT.match(path) is None) is stays


def test_record_lists_what_is_left_as_it_is_now(tmp_path: Path) -> None:
    own = tmp_path / "a-1.dist-info/RECORD"
    own.parent.mkdir()
    own.write_text('a.so,sha256=old,9\n../../../bin/a,sha256=x,1\n"a-1.dist-info/RECORD",,\n')
    (tmp_path / "a.so").write_bytes(b"stripped")
    rootfs.renew_records(tmp_path)
    assert own.read_text().splitlines() == [
        "a.so,sha256=hTHYlg5_JEdQjYDoDUj9lnMM-JqZhyaJcdhY_EnLpxo,8",
        "a-1.dist-info/RECORD,,",
    ]


def test_what_is_executed_as_its_owner_is_copied_without_that(tmp_path: Path) -> None:
    source = tmp_path / "su"
    source.write_text("")
    source.chmod(0o4775)
    rootfs.copy(source, tmp_path / "root")
    (copied,) = (path for path in (tmp_path / "root").rglob("su"))
    assert copied.stat().st_mode & 0o7777 == 0o755
