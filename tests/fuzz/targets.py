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

from fuzz import onnode
from kmm_common.api.names import Reason
from kmm_common.wire import convert
from kmm_common.wire.codec import Codec
from kmm_common.wire.errors import MessageError
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_cp.serving import messages as serving
from kmm_daemon import journal
from kmm_daemon.kernel import classify, symbols
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
    apart: frozenset[str] = frozenset()
    """Functions of these whose branches are not: no byte from outside reaches them."""


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
    said = convert.only_member(message, "kind")
    if isinstance(said, pb.StateReport):
        for module in serving.report(said).modules:
            assert convert.reported_from_message(convert.reported_to_message(module)) == module


def _credentials_asked(message: Message) -> None:
    assert isinstance(message, pb.PullCredentialsRequest)
    ref = convert.ref_from_message(message.module)
    assert convert.ref_from_message(convert.ref_to_message(ref)) == ref


def _credentials(message: Message) -> None:
    assert isinstance(message, pb.PullCredentialsResponse)
    for one in message.credentials:
        assert link.credential(one).registry == one.registry


_MESSAGES: tuple[tuple[type[Message], Callable[[Message], None]], ...] = (
    (pb.Update, _update),
    (pb.WatchRequest, _greeting),
    (pb.ReportMessage, _report),
    (pb.PullCredentialsRequest, _credentials_asked),
    (pb.PullCredentialsResponse, _credentials),
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


def modules_symbols(data: bytes) -> None:
    """Look up what a kernel log misses in a modules.symbols, with a zero byte between."""
    log, _, text = data.decode(errors="replace").partition("\0")
    symbols.withheld(log.splitlines())
    lack = symbols.missing(log.splitlines())
    if lack is not None:
        names = symbols.exporters(lack.symbols, text)
        assert len(set(names)) == len(names) and all(name.isascii() for name in names)
        assert lack.module in symbols.told(lack, symbols.Exporters(image=names))


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
        files={"kmt_core": "extra/kmt-core.ko.gz"} if lines else {},
    )
    row = KernelModule(name="kmt_core", refcount=len(lines))
    for told in (classify.load_failure(attempt), classify.unload_failure(attempt, row, ())):
        _well_told(told)
    classify.ignored_parameters(lines)


def _well_told(error: StepError) -> None:
    assert error.failure.reason in set(Reason)
    assert error.failure.message


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
        # It sends.
        apart=frozenset({"Codec.encode"}),
    ),
    "journal": Target(run=journal_file, covered=("kmm_daemon.journal",)),
    "modules_dep": Target(
        run=onnode.modules_dep,
        covered=("kmm_daemon.kernel.moduledir",),
        # Their input is a Module, not a file.
        apart=frozenset({"find_directory", "asked_for"}),
    ),
    "firmware_ledger": Target(
        run=onnode.firmware_ledger,
        covered=("kmm_daemon.kernel.ledgerfile",),
    ),
    "modules_symbols": Target(run=modules_symbols, covered=("kmm_daemon.kernel.symbols",)),
    "kernel_log": Target(run=onnode.kernel_log, covered=("kmm_daemon.kernel.kmsg",)),
    "modprobe_output": Target(
        run=modprobe_output,
        covered=("kmm_daemon.kernel.classify",),
        # How the process ended, and what /proc shows of a module.
        apart=frozenset({"_timed_out", "_killed", "in_use"}),
    ),
    "module_file": Target(
        run=onnode.module_file, covered=("kmm_daemon.kernel.modinfo", "kmm_daemon.kernel.notes")
    ),
    "proc_modules": Target(
        run=onnode.proc_modules,
        covered=("kmm_daemon.kernel.procfs", "kmm_daemon.kernel.notes"),
        # It remembers what was read at first.
        apart=frozenset({"KernelReader.look"}),
    ),
}
