import gzip
import tarfile
from dataclasses import replace

import pytest

from kmm_common.clock import SystemClock
from kmm_common.oci.cancellation import Cancellation, CancelledInThreadError
from kmm_common.oci.errors import InvalidImageError
from kmm_daemon.images.budget import Budget
from kmm_daemon.images.failures import TooSlowError
from kmm_daemon.images.limits import GIB, MIB, UnpackLimits
from kmm_daemon.images.unpack import unpack
from kmm_daemon.images.wanted import wanted_of
from support.images import listing, module_for
from support.layers import KERNEL, MODULES, file, layer, module, symlink, tar

SMALL = UnpackLimits(
    total_bytes=1 * MIB, entries=20, scanned=100, ratio=100, ratio_from=4 * MIB, seconds=20
)


@pytest.mark.parametrize("name", [f"{MODULES}/a.ko", "var/elsewhere"])
def test_ten_gigabytes_of_zeros_end_at_the_ratio_whether_wanted_or_not(unpacked, tmp_path, name):
    member = tarfile.TarInfo(name)
    member.size = 10 * GIB
    # The archive ends early: whoever reads on to its end finds that instead.
    bomb = gzip.compress(member.tobuf() + bytes(64 * MIB))
    limits = UnpackLimits(ratio_from=4 * MIB, total_bytes=20 * GIB)
    with pytest.raises(InvalidImageError, match="100 times its size; leave"):
        unpacked(bomb, limits=limits)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 16 * MIB


def test_a_file_larger_than_the_budget_is_refused_before_it_is_written(unpacked, tmp_path):
    with pytest.raises(InvalidImageError, match=f"more than {MIB} bytes"):
        unpacked(layer(module(content=bytes(MIB + 1))), limits=SMALL)
    assert not list(tmp_path.rglob("a.ko"))


def test_many_small_files_count_together(unpacked):
    members = [module(f"{number}.ko", bytes(MIB // 4)) for number in range(5)]
    with pytest.raises(InvalidImageError, match=f"more than {MIB} bytes"):
        unpacked(layer(*members), limits=SMALL)


def test_too_many_wanted_entries_are_refused(unpacked):
    with pytest.raises(InvalidImageError, match="more than 20 files for this kernel"):
        unpacked(layer(*(module(f"{number}.ko") for number in range(21))), limits=SMALL)


def test_too_many_entries_elsewhere_are_refused(unpacked):
    with pytest.raises(InvalidImageError, match="more than 100 files"):
        unpacked(layer(*(file(f"doc/{number}") for number in range(101))), limits=SMALL)


def test_a_million_entries_end_at_the_limit(unpacked):
    # As many as it takes: the limit is far below a million.
    names = (f"{MODULES}/{number}" for number in range(20_001))
    content = b"".join(tarfile.TarInfo(name).tobuf() for name in names)
    with pytest.raises(InvalidImageError, match="more than 20000 files for this kernel"):
        unpacked(gzip.compress(content, compresslevel=1))


def test_a_member_with_huge_headers_is_refused(unpacked):
    member = module()
    member.pax_headers = {"comment": "x" * (2 * MIB)}
    with pytest.raises(InvalidImageError, match="bytes of headers; shorten"):
        unpacked(tar(member))


def test_a_member_that_claims_a_negative_size_is_refused(unpacked):
    member = module()
    member.pax_headers = {"size": "-1024"}
    with pytest.raises(InvalidImageError, match="not a readable tar"):
        unpacked(tar(member, module("b.ko")))


def test_a_sparse_file_is_refused(unpacked):
    member = module()
    member.pax_headers = {"GNU.sparse.map": "0,2", "GNU.sparse.size": "1099511627776"}
    with pytest.raises(InvalidImageError, match="is a sparse file; store it whole"):
        unpacked(tar(member))


class LateClock(SystemClock):
    """A clock on which each look costs a second."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def monotonic(self) -> float:
        self._seconds += 1.0
        return self._seconds


def test_unpacking_ends_when_time_is_over(tmp_path):
    (tmp_path / "layer").write_bytes(layer(*(module(f"{number}.ko") for number in range(20))))
    (tmp_path / "root").mkdir()
    budget = Budget(SMALL, LateClock(), Cancellation())
    with pytest.raises(TooSlowError, match="more than 20 s"):
        unpack([tmp_path / "layer"], wanted_of(module_for()), tmp_path / "root", budget)


def test_unpacking_ends_when_nobody_waits(tmp_path):
    (tmp_path / "layer").write_bytes(layer(module()))
    (tmp_path / "root").mkdir()
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(CancelledInThreadError):
        unpack(
            [tmp_path / "layer"],
            wanted_of(module_for()),
            tmp_path / "root",
            Budget(SMALL, SystemClock(), cancellation),
        )
    assert listing(tmp_path / "root") == set()


def test_a_restart_gives_the_budget_back(unpacked):
    real = f"usr/lib64/modules/{KERNEL}"
    files = [file(f"{real}/{number}.ko", bytes(MIB // 8)) for number in range(6)]
    root = unpacked(
        layer(symlink("usr/lib", "lib64")),
        layer(*files),
        layer(symlink("usr/lib64/modules", "mods"), *files),
        dir_name="/usr",
        limits=replace(SMALL, total_bytes=13 * MIB // 8),
    )
    assert len(listing(root)) == 6 + 2
