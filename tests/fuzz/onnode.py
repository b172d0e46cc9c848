"""Parsers of what a node has in files, given bytes as those files, below a scratch directory."""

import gzip
import lzma
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import zstandard

from kmm_daemon.kernel import kmsg, modinfo, moduledir, procfs
from kmm_daemon.kernel.ledger import Ledger, refs, release
from kmm_daemon.kernel.ledgerfile import LedgerFile
from kmm_daemon.kernel.notes import SECTION
from kmm_daemon.values import KernelModule, StepError
from support.modulefile import module_bytes

MOST_RECORDS = 200
MOST_FILES = 8
MOST_BYTES = 64 * 1024
"""Instead of half a gigabyte, which no fuzzer gets to."""
KERNEL = "6.1.176"
NOWHERE = Path("/dev/null/kmsg")
_MEMORY = Path("/dev/shm")  # noqa: S108
_FILE = re.compile(r"([A-Za-z0-9_-]{1,40})(?:: *([A-Za-z0-9_,-]{0,80}))?")
_PACKED: tuple[Callable[[bytes], bytes], ...] = (
    bytes,
    gzip.compress,
    lzma.compress,
    zstandard.compress,
)


@contextmanager
def scratch() -> Iterator[Path]:
    """Have an empty directory, in memory where there is such a place: it is made for every run."""
    directory = Path(
        tempfile.mkdtemp(prefix="kmm-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None)
    )
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def modules_dep(data: bytes) -> None:
    """Read modules.dep, modules.softdep and `module: depends` for each file, zero bytes between.

    Without a modules.dep the files speak for themselves.
    """
    text, softdep, files = (*data.split(b"\0", 2), b"", b"")[:3]
    with scratch() as directory:
        _write_tree(directory / "image", text, softdep, files.decode(errors="replace"))
        _write_tree(directory / "host", b"", b"", text.decode(errors="replace"))
        _read_tree(directory / "image", directory / "host")


def _write_tree(directory: Path, text: bytes, softdep: bytes, files: str) -> None:
    (directory / "kernel").mkdir(parents=True)
    if text:
        (directory / "modules.dep").write_bytes(text)
        (directory / "modules.dep.bin").touch()
    if softdep:
        (directory / "modules.softdep").write_bytes(softdep)
    for match in filter(None, map(_FILE.match, files.splitlines()[:MOST_FILES])):
        path = directory / "kernel" / f"{match[1]}.ko"
        path.write_bytes(module_bytes({"name": match[1], "depends": match[2] or ""}))


def _read_tree(directory: Path, host: Path) -> None:
    try:
        tree = moduledir.read_tree(directory, (host,))
    except StepError as error:
        assert error.failure.message
        return
    for name in [*tree.files][:20]:
        order = moduledir.load_order(tree, (name,))
        assert len(set(order)) == len(order) and name in order
        back = moduledir.unload_order(tree, (name,))
        assert back[0] == name and sorted(back) == sorted(order)
        try:
            assert tree.info(name).build == ""
        except StepError as error:
            assert error.failure.message
    moduledir.named_by(tree.files, tree)
    for link in moduledir.host_links(directory, (host,)):
        assert not (directory / link).exists() and "/" not in link


def firmware_ledger(data: bytes) -> None:
    """Read the list of firmware files; what is in one is written and read again as it was."""
    with scratch() as directory:
        path = directory / "firmware.json"
        path.write_bytes(data)
        ledger = LedgerFile(path).read()
        aside = (directory / "firmware.unusable.json").exists()
        assert path.exists() != aside and (ledger == Ledger() or not aside)
        LedgerFile(path).write(ledger)
        assert LedgerFile(path).read() == ledger
        left, orphans = release(ledger, refs(ledger))
        assert not left.files and orphans.keys() == ledger.files.keys()


def kernel_log(data: bytes) -> None:
    """Read records of /dev/kmsg, with a zero byte between, and the same as lines of syslog(2)."""
    raws = data.split(b"\0")
    with _device(raws[:MOST_RECORDS]) as listening:
        records = listening.records()
    answers = iter((b"", b"\n".join(raws)))
    with kmsg.KernelLog.from_now(NOWHERE, lambda: next(answers)) as listening:
        records += listening.records()
    for record in records:
        assert 0 <= record.level <= 7 and (record.text.isprintable() or not record.text)
    lines = kmsg.about(records, ("kmt_core",))
    assert {*lines} <= {record.text for record in records}


@contextmanager
def _device(records: Iterable[bytes]) -> Iterator[kmsg.KernelLog]:
    """Have a descriptor that gives one record at each read, as the kernel's device does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        for raw in records:
            try:
                ours.send(raw[: kmsg.RECORD_BYTES])
            except BlockingIOError:
                break
        with kmsg.KernelLog(kmsg.Device(os.dup(theirs.fileno()))) as listening:
            yield listening


def module_file(data: bytes) -> None:
    """Read a module's file; the first byte says how it is compressed, or that it is not."""
    with scratch() as directory, mock.patch.object(modinfo, "MOST_BYTES", MOST_BYTES):
        path = directory / "a.ko"
        packed = _PACKED[data[0] % len(_PACKED)](data[1:]) if data else b""
        for content in (data, packed):
            path.write_bytes(content)
            try:
                info = modinfo.read(path)
            except modinfo.InvalidModuleFileError as error:
                assert str(error)
            else:
                assert all(isinstance(name, str) for name in info.depends)
                assert info.build in (info.srcversion, f"build-id {info.build_id}")


def proc_modules(data: bytes) -> None:
    """Read /proc/modules, modules.builtin, and what /sys/module has of kmt_core.

    That is its srcversion, initstate, a parameter and notes; zero bytes between.
    """
    parts = (*data.split(b"\0", 5), *(b"",) * 5)[:6]
    with scratch() as root:
        _write_node(root, parts)
        files = procfs.KernelFiles(root=root)
        rows = files.modules(frozenset({"kmt_core"}))
        assert "" not in files.builtin()
        files.modules_disabled()
    _agree(rows, parts[0].decode(errors="replace"))


def _agree(rows: dict[str, KernelModule], text: str) -> None:
    for name, row in rows.items():
        assert name == row.name
        assert procfs.in_use(row) in (True, False)
        procfs.permanent(text, name)
    assert procfs.present(rows, rows) == tuple(rows)


def _write_node(root: Path, parts: tuple[bytes, ...]) -> None:
    modules, builtin, srcversion, initstate, parameter, notes = parts
    shown = root / "sys/module/kmt_core"
    content = {
        root / "proc/modules": modules,
        root / "proc/sys/kernel/osrelease": KERNEL.encode(),
        root / "lib/modules" / KERNEL / "modules.builtin": builtin,
        shown / "srcversion": srcversion,
        shown / "initstate": initstate,
        shown / "parameters/hold": parameter,
        shown / "notes" / SECTION: notes,
    }
    for path, written in content.items():
        if written or path.name == "modules":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(written)
