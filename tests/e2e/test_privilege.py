"""Who may do what on a node: bytes from outside meet no rights, the daemon has those it needs."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from kmm_sandbox import kmodimage
from kmm_sandbox.process.node import Node
from support.stage import (
    STORE,
    Stage,
    modprobes,
    own_module,
    process_status,
    pulls,
    push_own,
    push_pinned,
    registry_hangs,
    worker_status,
)

WORKER = "65532"
CORE = "kmt_core"
NODE = "node1"
SYS_MODULE = 1 << 16
RIGHTS = SYS_MODULE | 1 << 0 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 19 | 1 << 34
"""SYS_MODULE, CHOWN, DAC_READ_SEARCH, FOWNER, KILL, SETGID, SETUID, SYS_PTRACE, SYSLOG."""
WRITABLE = {
    "/run/kmm",
    "/var/lib/kmm",
    "/var/lib/firmware",
    "/sys/module/firmware_class/parameters",
}
"""Of the node."""
CONTAINERS_OWN = {"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"}  # noqa: S108

CALLS = """
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
if "confined" in sys.argv:
    from kmm_daemon.images.confine import confine
    os.setgroups([]); os.setregid(65532, 65532); os.setreuid(65532, 65532)
    confine()
def call(name, *arguments):
    # Numbers of x86_64, which is what the nodes are.
    number = {"ptrace": 101, "mount": 165, "init_module": 175, "delete_module": 176, "keyctl": 250,
        "unshare": 272, "setns": 308, "open_by_handle_at": 304, "process_vm_readv": 310,
        "finit_module": 313, "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425}[name]
    ctypes.set_errno(0)
    libc.syscall(number, *arguments)
    return errno.errorcode.get(ctypes.get_errno(), "OK")
def attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "OK"
"""


def told_in_pod(node: Node, program: str, *words: str) -> dict[str, str]:
    """Return the JSON object that a Python program prints in a container like the daemon's."""
    answer = node.run_in_pod(sys.executable, "-c", CALLS + program, *words).check()
    found: dict[str, str] = json.loads(answer)
    return found


def daemon_pid(node: Node) -> str:
    return node.execute("cat", "/run/kmm/daemon.lock").check().strip()


def capabilities(status: dict[str, str], *sets: str) -> set[int]:
    return {int(status[name], 16) for name in sets}


def fresh_image(stage: Stage, salt: str) -> str:
    """Push a module in bytes that no node has: an image that is there needs no worker."""
    own = {f"{CORE}.ko": own_module(stage.sandbox.kernel.version, CORE)}
    files = kmodimage.kmod_files(stage.sandbox.kernel, extra=own) | {"salt": salt.encode()}
    return push_pinned(stage.sandbox, "privilege", files)


def test_images_are_pulled_and_unpacked_without_any_right(stage: Stage) -> None:
    image = fresh_image(stage, "unprivileged")
    nodes = stage.sandbox.nodes.values()
    with registry_hangs(stage.sandbox):
        outcome = stage.run("unprivileged", image, {"moduleName": CORE})
        for node in nodes:
            stage.until(lambda node=node: pulls(node), f"{node.name} pulls")  # type: ignore[misc]
            status = worker_status(node)
            assert set(status["Uid"].split()) == set(status["Gid"].split()) == {WORKER}
            assert status["Groups"] == ""
            assert capabilities(status, "CapInh", "CapPrm", "CapEff", "CapAmb") == {0}
            assert status["NoNewPrivs"] == "1"
            # The Pod's and its own.
            assert (status["Seccomp"], status["Seccomp_filters"]) == ("2", "2")
    outcome.wait_loaded()
    for node in nodes:
        owners = node.execute("find", STORE, "-mindepth", "1", "-printf", "%U\\n").check()
        assert set(owners.split()) == {WORKER}


def test_daemon_has_the_rights_of_its_manifest_and_no_other(stage: Stage) -> None:
    for node in stage.sandbox.nodes.values():
        status = process_status(node, daemon_pid(node))
        assert capabilities(status, "CapBnd", "CapPrm", "CapEff") == {RIGHTS}
        assert capabilities(status, "CapInh", "CapAmb") == {0}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_daemon_writes_to_four_places_of_the_node_alone(stage: Stage) -> None:
    for node in stage.sandbox.nodes.values():
        text = node.execute("cat", f"/proc/{daemon_pid(node)}/mountinfo").check()
        mounts = [line.split()[4:6] for line in text.splitlines()]
        writable = {place for place, options in mounts if "rw" in options.split(",")}
        assert writable - CONTAINERS_OWN == WRITABLE


def test_modprobe_has_the_right_that_the_worker_has_not(stage: Stage) -> None:
    image = push_own(stage.sandbox, "core", CORE)
    outcome = stage.apply("core", image, CORE, parameters=["delay_ms=8000"])
    node = stage.sandbox.nodes[NODE]
    stage.until(lambda: modprobes(node) != [], f"modprobe on {NODE}")
    status = process_status(node, modprobes(node)[0])
    assert capabilities(status, "CapBnd", "CapPrm", "CapEff") == {RIGHTS}
    assert (status["NoNewPrivs"], status["Seccomp_filters"]) == ("1", "1")
    outcome.wait_loaded()


def test_what_the_profile_does_not_list_is_refused_to_root(stage: Stage) -> None:
    program = """
import json
print(json.dumps({
    "ptrace": call("ptrace", 0, 0, 0, 0), "process_vm_readv": call("process_vm_readv", 1, 0, 0, 0),
    "mount": call("mount", b"none", b"/proc", b"tmpfs", 0, 0), "unshare": call("unshare", 0),
    "setns": call("setns", -1, 0), "open_by_handle_at": call("open_by_handle_at", -1, 0, 0),
    "keyctl": call("keyctl", 0, -3, 0), "bpf": call("bpf", -1, 0, 0),
    "userfaultfd": call("userfaultfd", 1), "io_uring_setup": call("io_uring_setup", 1, 0),
    "AF_PACKET": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)),
    "AF_ALG": attempt(lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)),
}))
"""
    told = told_in_pod(stage.sandbox.nodes[NODE], program)
    assert set(told.values()) == {"EPERM"}, told


def test_worker_cannot_touch_modules_even_with_a_file_in_hand(stage: Stage) -> None:
    program = """
import json
print(json.dumps({
    "init_module": call("init_module", 0, 0, b""), "finit_module": call("finit_module", -1, b"", 0),
    "delete_module": call("delete_module", b"nowhere", 0),
    "execve": attempt(lambda: os.execv("/usr/sbin/modprobe", ["modprobe", "-V"])),
    "setuid": attempt(lambda: os.setreuid(65532, 65532)),
}))
"""
    told = told_in_pod(stage.sandbox.nodes[NODE], program, "confined")
    assert set(told.values()) == {"EPERM"}, told


def test_daemon_itself_gets_as_far_as_the_kernel_with_modules(stage: Stage) -> None:
    program = """
import json
print(json.dumps({
    "finit_module": call("finit_module", -1, b"", 0),
    "delete_module": call("delete_module", b"nowhere", 0),
    "kernel log": attempt(lambda: __import__("kmm_daemon.kernel.syslog").kernel.syslog.read_all()),
    "/dev/kmsg": attempt(lambda: open("/dev/kmsg")),
    "/usr": attempt(lambda: open("/usr/new", "w")), "/etc": attempt(lambda: open("/etc/new", "w")),
    "/lib/modules": attempt(lambda: open("/lib/modules/new", "w")),
    "/sys": attempt(lambda: open("/sys/kernel/uevent_seqnum", "w")),
}))
"""
    told = told_in_pod(stage.sandbox.nodes[NODE], program)
    assert told == {
        "finit_module": "EBADF",
        "delete_module": "ENOENT",
        "kernel log": "OK",
        "/dev/kmsg": "ENOENT",
        **dict.fromkeys(("/usr", "/etc", "/lib/modules", "/sys"), "EROFS"),
    }


@contextmanager
def without(stage: Stage, node: Node, right: str) -> Iterator[None]:
    """Have a node's daemon run without one of its capabilities, and with an empty image store."""
    usual = node.pod
    spec = json.loads(json.dumps(usual.spec))
    spec["containers"][0]["securityContext"]["capabilities"]["add"].remove(right)
    stage.stop_daemon(node.name)
    node.execute("rm", "-rf", STORE).check()
    node.pod = replace(usual, spec=spec)
    node.run_daemon()
    try:
        yield
    finally:
        node.pod = usual
        node.run_daemon()


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ("SYS_MODULE", "the daemon needs CAP_SYS_MODULE"),
        ("DAC_READ_SEARCH", "the image store's disk fails (Permission denied)"),
        ("FOWNER", "the image store's disk fails (Permission denied)"),
        ("SETUID", "the image worker cannot start (Operation not permitted)"),
        ("SETGID", "the image worker cannot start (Operation not permitted)"),
    ],
)
def test_nothing_is_loaded_without_a_right_and_its_lack_is_told(
    stage: Stage, right: str, said: str
) -> None:
    node = stage.sandbox.nodes[NODE]
    with without(stage, node, right):
        outcome = stage.apply("core", fresh_image(stage, right), CORE)
        stage.until(lambda: stage.report(NODE, "core").get("state") == "Failed", "it fails")
        assert said in stage.report(NODE, "core")["error"]["message"]
        assert CORE not in node.loaded_modules()
    outcome.wait_loaded()


def test_daemon_without_the_right_to_give_the_store_away_says_so(stage: Stage) -> None:
    node, log = stage.sandbox.nodes[NODE], stage.daemon_log(NODE)
    refused = f"kmm-daemon: image store {STORE}: Operation not permitted"
    with without(stage, node, "CHOWN"):
        stage.until(lambda: refused in stage.daemon_log(NODE)[len(log) :], "it is refused")


def test_daemon_that_may_not_read_the_kernel_log_fails_without_its_lines(stage: Stage) -> None:
    node = stage.sandbox.nodes[NODE]
    image = push_own(stage.sandbox, "core", CORE)
    with without(stage, node, "SYSLOG"):
        stage.apply("core", image, CORE, parameters=["fail=19"])
        stage.until(lambda: stage.errors("core") == {"DeviceError"}, "all nodes fail")
        assert "kernelLog" not in stage.report(NODE, "core")["error"]
    assert f"{CORE}: told to fail with -19" in stage.report("node2", "core")["error"]["kernelLog"]


def test_daemon_tells_of_itself_within_its_profile(stage: Stage) -> None:
    node = stage.sandbox.nodes[NODE]
    before = daemon_pid(node)

    def send(number: signal.Signals, message: str) -> None:
        program = f'import os; os.kill(int(open("/run/kmm/daemon.lock").read()), {number:d})'
        node.run_in_pod(sys.executable, "-c", program).check()
        stage.until(lambda: f'"msg": "{message}"' in stage.daemon_log(NODE), message)

    send(signal.SIGUSR1, "tasks told")
    assert "most recent call first" in stage.daemon_log(NODE)
    send(signal.SIGUSR2, "profile begun")
    send(signal.SIGUSR2, "profile ended")
    assert daemon_pid(node) == before
    assert stage.asked(node, "/healthz")[0] == 200
