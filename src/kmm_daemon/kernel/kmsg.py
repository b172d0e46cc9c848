"""The kernel log of one moment, from /dev/kmsg; nothing where it may not be read."""

import errno
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kmm_common.logs import log

logger = logging.getLogger(__name__)

DEVICE = Path("/dev/kmsg")
RECORD_BYTES = 8192
MOST_RECORDS = 1000
MOST_READS = 20_000
WARNING = 4
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
    facility, level = divmod(int(priority), 8)
    if facility:
        return None
    text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), body.partition("\n")[0])
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


class KernelLog:
    """Opened at the end of the log, it sees what is logged from then on."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    @classmethod
    def from_now(cls, device: Path = DEVICE) -> "KernelLog":
        """Start to listen; a device that cannot be opened is an empty log."""
        try:
            descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(descriptor, 0, os.SEEK_END)
        except OSError as error:
            log(logger, logging.DEBUG, "kernel log not readable", error=error.strerror)
            return cls(None)
        return cls(descriptor)

    @property
    def readable(self) -> bool:
        return self._descriptor is not None

    def records(self) -> tuple[Record, ...]:
        """Return what was logged since the last call, the newest thousand records."""
        found: list[Record] = []
        for _ in range(MOST_READS):
            raw = self._next()
            if raw is None:
                break
            if record := parse_record(raw):
                found.append(record)
                del found[:-MOST_RECORDS]
        return tuple(found)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _next(self) -> bytes | None:
        if self._descriptor is None:
            return None
        try:
            return os.read(self._descriptor, RECORD_BYTES) or None
        except OSError as error:
            # EPIPE: records were overwritten before they were read; the next read goes on.
            return b"" if error.errno == errno.EPIPE else None

    def __enter__(self) -> "KernelLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
