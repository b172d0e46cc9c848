"""Another release for a running kernel: a User-Mode Linux kernel is a process with a memory.

The kernel itself has no way to be told. What is written is the `release` in its struct new_utsname
(include/uapi/linux/utsname.h), from which uname(2) and /proc/sys/kernel/osrelease are read. The
version magic that it compares with those of modules is a constant, and stays: see FORCED.
"""

import re
from pathlib import Path

from kmm_sandbox.uml import UmlNode

FIELD = 65
"""Bytes of each of sysname, nodename, release."""
FORCED = {"load": ["--force"]}
"""`modprobe.args` by which modules load though none can be built for the release and the kernel."""


def set_release(machine: UmlNode, release: str) -> None:
    """Have a kernel call itself by another release, until it is rebooted."""
    process = machine.process
    assert process is not None
    pattern = re.compile(re.escape(_field("Linux") + _field(machine.spec.name)))
    written = 0
    with Path(f"/proc/{process.pid}/mem").open("r+b", buffering=0) as memory:
        for start, size in _own_data(process.pid):
            memory.seek(start)
            for match in pattern.finditer(memory.read(size)):
                memory.seek(start + match.end())
                written += memory.write(_field(release))
    assert written == FIELD


def _field(text: str) -> bytes:
    return text.encode().ljust(FIELD, b"\0")


def _own_data(pid: int) -> list[tuple[int, int]]:
    """Return start and size of what a program can write of its own file's image in memory."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, rights, *rest = line.split()
        start, end = (int(each, 16) for each in addresses.split("-"))
        if rights.startswith("rw") and rest[-1].endswith("linux.uml"):
            found.append((start, end - start))
    return found
