"""The kernel log of one moment, from /dev/kmsg or syslog(2); nothing where neither may be read."""

import contextlib
import errno
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kmm_common.logs import log
from kmm_daemon.kernel import syslog

logger = logging.getLogger(__name__)

DEVICE = Path("/dev/kmsg")
RECORD_BYTES = 8192
MOST_RECORDS = 1000
MOST_READS = 20_000
WARNING = 4
_SYSLOG_LINE = re.compile(
    rb"<(?P<priority>\d{1,9})>(\[ *\d+\.\d+\])?(\[ *[TC]\d+\])? ?(?P<text>.*)", re.DOTALL
)
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")
_ABOUT_ANY_MODULE = re.compile(
    r"Lockdown: (modprobe|insmod)|Loading of (unsigned )?module|Direct firmware load|"
    r"sysfs: cannot create duplicate filename '/module/|Invalid (architecture in )?ELF"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of the kernel log."""

    level: int
    """0 emergency to 7 debug."""
    text: str


def parse_record(raw: bytes) -> Record | None:
    """Read `<priority>,<sequence>,<microseconds>,<flags>;<text>` and its continuation lines.

    Returns None for what is no record, and for lines that user space has written.
    """
    head, semicolon, body = raw.decode(errors="replace").partition(";")
    priority = head.partition(",")[0]
    if not semicolon or not (priority.isascii() and priority.isdigit()):
        return None
    text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), body.partition("\n")[0])
    return _record(int(priority), text)


def parse_syslog_line(raw: bytes) -> Record | None:
    """Read `<priority>[ seconds] text`; the time, and the task, are only there where configured.

    Returns None for what is no such line, and for lines that user space has written.
    """
    match = _SYSLOG_LINE.fullmatch(raw)
    return (
        _record(int(match["priority"]), match["text"].decode(errors="replace")) if match else None
    )


def _record(priority: int, text: str) -> Record | None:
    facility, level = divmod(priority, 8)
    if facility:
        return None
    return Record(level=level, text="".join(c if c.isprintable() else "?" for c in text))


def about(records: Iterable[Record], names: Iterable[str]) -> tuple[str, ...]:
    """Return the lines about modules of these kernel_names; without any, all warnings."""
    everything = tuple(records)
    spellings = [re.escape(name).replace("_", "[-_]") for name in names if name]
    named = re.compile(rf"(?<![\w-])({'|'.join(spellings)})(?![\w-])") if spellings else None
    lines = tuple(
        record.text
        for record in everything
        if (named and named.search(record.text)) or _ABOUT_ANY_MODULE.search(record.text)
    )
    return lines or tuple(record.text for record in everything if record.level <= WARNING)


class Device:
    """/dev/kmsg: each read gives one record."""

    def __init__(self, descriptor: int) -> None:
        """The descriptor is closed with it."""
        self._descriptor = descriptor

    @classmethod
    def at_its_end(cls, path: Path) -> "Device":
        """Open the device. Raises OSError."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(descriptor, 0, os.SEEK_END)
        return cls(descriptor)

    def records(self) -> Iterator[Record | None]:
        for _ in range(MOST_READS):
            raw = self._next()
            if raw is None:
                return
            yield parse_record(raw)

    def close(self) -> None:
        os.close(self._descriptor)

    def _next(self) -> bytes | None:
        try:
            return os.read(self._descriptor, RECORD_BYTES) or None
        except OSError as error:
            # EPIPE: records were overwritten before they were read; the next read goes on.
            return b"" if error.errno == errno.EPIPE else None


class _Syslog:
    """syslog(2), from now on."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        """Raises OSError."""
        self._tail = syslog.Tail(read)

    def records(self) -> Iterator[Record | None]:
        # What could be read a moment ago is lost with its lines if it cannot be read now.
        with contextlib.suppress(OSError):
            yield from map(parse_syslog_line, self._tail.lines())

    def close(self) -> None:
        """Nothing is open."""


class KernelLog:
    """Opened at the end of the log, it sees what is logged from then on."""

    def __init__(self, source: Device | _Syslog | None) -> None:
        self._source = source

    @classmethod
    def from_now(
        cls, device: Path = DEVICE, read_all: Callable[[], bytes] = syslog.read_all
    ) -> "KernelLog":
        """Start to listen, to syslog(2) without the device; to nothing without both."""
        with contextlib.suppress(OSError):
            return cls(Device.at_its_end(device))
        try:
            return cls(_Syslog(read_all))
        except OSError as error:
            log(logger, logging.DEBUG, "kernel log not readable", error=error.strerror)
            return cls(None)

    @property
    def readable(self) -> bool:
        return self._source is not None

    def records(self) -> tuple[Record, ...]:
        """Return what was logged since the last call, the newest thousand records."""
        found: list[Record] = []
        for record in self._source.records() if self._source else ():
            if record:
                found.append(record)
                del found[:-MOST_RECORDS]
        return tuple(found)

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def __enter__(self) -> "KernelLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
