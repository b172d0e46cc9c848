"""In processes of their own: a filter is for good."""

import subprocess
import sys

import pytest

from kmm_daemon.images import forbid

PREFIX = """
import ctypes, os, subprocess, threading
from pathlib import Path
from kmm_daemon.images.confine import confine
confine()
"""


def run(program: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", PREFIX + program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "call",
    [
        "os.execv('/bin/true', ['true'])",
        "subprocess.run(['/bin/true'])",
        "os.setgroups([])",
        "os.mknod('/nowhere/fifo')",
    ],
)
def test_forbidden_call_is_refused(call: str) -> None:
    program = f"""
try:
    {call}
except PermissionError as error:
    print("refused", error.errno)
"""
    assert run(program).stdout == "refused 1\n"


def test_call_that_anybody_may_make_is_refused() -> None:
    # It asks for nothing: without the filter it succeeds.
    program = """
libc = ctypes.CDLL(None, use_errno=True)
print(Path("/proc/self/status").read_text())
print(libc.unshare(0), ctypes.get_errno())
"""
    told = run(program).stdout
    assert "Seccomp:\t2\n" in told
    assert "NoNewPrivs:\t1\n" in told
    assert told.endswith("-1 1\n")


def test_what_a_worker_does_is_allowed() -> None:
    program = """
thread = threading.Thread(target=lambda: print(len(os.listdir("/"))) )
thread.start(); thread.join()
import asyncio, socket
async def work():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    return await asyncio.to_thread(socket.gethostbyname, "localhost")
print(asyncio.run(work()))
"""
    done = run(program)
    assert done.stdout.split()[1:] == ["127.0.0.1"], done.stderr


def test_machine_without_the_library_is_told_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(forbid, "LIBRARY", "libnowhere.so.9")
    with pytest.raises(OSError, match="install libseccomp 2"):
        forbid.forbid()


def test_call_that_this_libseccomp_does_not_know_is_left_out() -> None:
    program = """
from kmm_daemon.images.forbid import forbid
forbid(("no_such_call",))
print("done")
"""
    assert run(program).stdout == "done\n"
