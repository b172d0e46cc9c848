"""What is fuzzed: for each parser, how bytes reach it, what it may refuse, and what must hold.

A target gets any bytes. It returns if they were taken or refused in words; what else it raises,
or asserts, is a finding.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from betterproto2 import Message
from grpclib.exceptions import GRPCError

from kmm_common.api.names import Reason
from kmm_common.wire import convert
from kmm_common.wire.codec import Codec
from kmm_common.wire.errors import MessageError
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_cp.serving import messages as serving
from kmm_daemon import journal
from kmm_daemon.kernel import classify, kmsg, modinfo, moduledir, procfs, symbols
from kmm_daemon.kernel.runner import Completed
from kmm_daemon.link import messages as link
from kmm_daemon.values import KernelModule, StepError

CORPUS = Path(__file__).with_name("corpus")
BOOT = "8f2c5c0e-0000-4000-8000-000000000000"
_CODEC = Codec()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One parser under fuzz."""

    run: Callable[[bytes], None]
    covered: tuple[str, ...]
    """The modules whose branches are counted."""


def wire(data: bytes) -> None:
    """Read a message of either direction; the first byte chooses which."""
    kind, read = _MESSAGES[data[0] % len(_MESSAGES)] if data else _MESSAGES[0]
    try:
        read(_CODEC.decode(data[1:], kind))
    except (GRPCError, MessageError) as error:
        assert str(error)


def _update(message: Message) -> None:
    assert isinstance(message, pb.Update)
    for module in link.desired_update(message).upserts:
        assert convert.desired_from_message(convert.desired_to_message(module)) == module


def _greeting(message: Message) -> None:
    assert isinstance(message, pb.WatchRequest)
    serving.greeting(message)


def _report(message: Message) -> None:
    assert isinstance(message, pb.ReportMessage)
    if message.state is not None:
        for module in serving.report(message.state).modules:
            assert convert.reported_from_message(convert.reported_to_message(module)) == module


_MESSAGES: tuple[tuple[type[Message], Callable[[Message], None]], ...] = (
    (pb.Update, _update),
    (pb.WatchRequest, _greeting),
    (pb.ReportMessage, _report),
)


def journal_file(data: bytes) -> None:
    """Read a journal: the bytes as they are, and as the body of a journal with a right stamp."""
    for content in (data, _stamped(data)):
        try:
            memory = journal.decode(content, BOOT)
        except journal.UnusableJournalError as error:
            assert str(error)
        else:
            assert journal.decode(journal.encode(memory, BOOT), BOOT) == memory


def _stamped(data: bytes) -> bytes:
    try:
        body = json.loads(data)
        stamp = {"format": journal.FORMAT, "boot_id": BOOT, "sha256": journal._checksum(body)}
        return json.dumps({**stamp, "body": body}).encode()
    except (ValueError, RecursionError):
        return data


def modules_dep(data: bytes) -> None:
    """Read modules.dep and modules.softdep, with a zero byte between; order what they name."""
    text, _, soft = data.decode(errors="replace").partition("\0")
    tree = moduledir.parse_dependencies(Path("/nowhere"), text, soft)
    for name in [*tree.files][:20]:
        order = moduledir.load_order(tree, (name,))
        assert len(set(order)) == len(order) and name in order
        back = moduledir.unload_order(tree, (name,))
        assert back[0] == name and sorted(back) == sorted(order)
    moduledir.named_by(text.split(), tree)


def modules_symbols(data: bytes) -> None:
    """Look up what a kernel log misses in a modules.symbols, with a zero byte between."""
    log, _, text = data.decode(errors="replace").partition("\0")
    lack = symbols.missing(log.splitlines())
    if lack is not None:
        names = symbols.exporters(lack.symbols, text)
        assert len(set(names)) == len(names) and all(name.isascii() for name in names)
        assert lack.module in symbols.told(lack, symbols.Exporters(image=names))


def kernel_log(data: bytes) -> None:
    """Read records of /dev/kmsg, with a zero byte between; choose those about a module."""
    records = [record for raw in data.split(b"\0") if (record := kmsg.parse_record(raw))]
    for record in records:
        assert 0 <= record.level <= 7 and (record.text.isprintable() or not record.text)
    lines = kmsg.about(records, ("kmt_core",))
    assert {*lines} <= {record.text for record in records}


def modprobe_output(data: bytes) -> None:
    """Say why modprobe failed: its stderr, then lines of the kernel log, zero bytes between."""
    stderr, *lines = data.decode(errors="replace").split("\0")
    attempt = classify.Attempt(
        name="kmt_core",
        completed=Completed(exit_code=1, stderr=stderr),
        kernel_log=tuple(lines),
        log_readable=bool(lines),
        kernel="6.1.176",
        parameters=("fail=1",),
        vermagic="6.1.176 mod_unload",
    )
    row = KernelModule(name="kmt_core", refcount=len(lines))
    for told in (classify.load_failure(attempt), classify.unload_failure(attempt, row, ())):
        _well_told(told)
    classify.ignored_parameters(lines)


def _well_told(error: StepError) -> None:
    assert error.failure.reason in set(Reason)
    assert error.failure.message


def module_file(data: bytes) -> None:
    """Read the .modinfo of a module's file."""
    try:
        info = modinfo.parse(data)
    except modinfo.InvalidModuleFileError as error:
        assert str(error)
    else:
        assert all(isinstance(name, str) for name in info.depends)


def proc_modules(data: bytes) -> None:
    """Read /proc/modules and modules.builtin, with a zero byte between."""
    text, _, builtin = data.decode(errors="replace").partition("\0")
    for name, row in procfs.parse_modules(text).items():
        assert name == row.name
        assert procfs.in_use(row) in (True, False)
    assert "" not in procfs.parse_builtin(builtin)


TARGETS: Mapping[str, Target] = {
    "wire": Target(
        run=wire,
        covered=(
            "kmm_common.wire.scan",
            "kmm_common.wire.convert",
            "kmm_common.wire.codec",
            "kmm_daemon.link.messages",
            "kmm_cp.serving.messages",
        ),
    ),
    "journal": Target(run=journal_file, covered=("kmm_daemon.journal",)),
    "modules_dep": Target(run=modules_dep, covered=("kmm_daemon.kernel.moduledir",)),
    "modules_symbols": Target(run=modules_symbols, covered=("kmm_daemon.kernel.symbols",)),
    "kernel_log": Target(run=kernel_log, covered=("kmm_daemon.kernel.kmsg",)),
    "modprobe_output": Target(run=modprobe_output, covered=("kmm_daemon.kernel.classify",)),
    "module_file": Target(run=module_file, covered=("kmm_daemon.kernel.modinfo",)),
    "proc_modules": Target(run=proc_modules, covered=("kmm_daemon.kernel.procfs",)),
}
