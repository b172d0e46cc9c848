"""An init that does not return: its modprobe cannot be killed, and is never joined by a second."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from kmm_sandbox import programs, samples
from kmm_sandbox.process.node import Node
from support.stage import Stage, modprobes, push_own

CORE, USER = "kmt_core", "kmt_user"
NODE = "node1"
SESSION = '"msg": "session with the control plane"'
INIT_MS = 55_000
"""Long enough for all that is looked at meanwhile; below the usual deadline of the other nodes."""
METRICS = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8081/metrics").read().decode())
"""


@contextmanager
def impatient(stage: Stage, node: Node) -> Iterator[None]:
    """Have a node's daemon end modprobe after five seconds, and give it one to end."""
    settings, starts = node.settings, stage.daemon_starts(node.name)
    usual = yaml.safe_load(settings.read_text())
    short = {"modprobe_seconds": 5.0, "modprobe_grace_seconds": 1.0}
    programs.write_settings(settings, usual | short)
    node.restart_daemon()
    try:
        stage.until(lambda: stage.daemon_starts(node.name) > starts, "a daemon that has them")
        yield
    finally:
        programs.write_settings(settings, usual)
        node.restart_daemon()


def told(stage: Stage, module: str) -> str:
    """Return what the node says of a process that has not ended; empty while it says nothing."""
    error = stage.report(NODE, module).get("error") or {}
    return str(error["message"]) if error.get("reason") == "StillRunning" else ""


def unended(node: Node) -> str:
    lines = node.execute(sys.executable, "-c", METRICS).check().splitlines()
    return next(line for line in lines if line.startswith("kmm_daemon_unended_processes"))


def test_modprobe_that_cannot_be_killed_is_told_disturbs_nobody_and_is_taken_over(
    stage: Stage,
) -> None:
    node, before = stage.sandbox.nodes[NODE], stage.steps(NODE)
    image = push_own(stage.sandbox, "core", CORE)
    user_image = push_own(stage.sandbox, "user", CORE, USER)
    slip_image = samples.push(stage.sandbox, "slip", ("slip",))
    with impatient(stage, node):
        core = stage.apply("core", image, CORE, parameters=[f"delay_ms={INIT_MS}"])
        stage.until(lambda: told(stage, "core") != "", f"{NODE} says StillRunning")
        (pid,) = modprobes(node)
        sessions = stage.daemon_log(NODE).count(SESSION)
        require_told(stage, pid)
        user = stage.apply("user", user_image, USER)
        slip = stage.apply("slip", slip_image, "slip")
        slip.wait_loaded()
        stage.until(lambda: told(stage, "user") != "", f"{NODE} says what {USER} waits for")
        assert f"process {pid} (modprobe {CORE}), which has not ended" in told(stage, "user")
        assert "Module default/core" in told(stage, "user")
        assert stage.daemon_log(NODE).count(SESSION) == sessions
        require_next_daemon_knows(stage, pid)
        core.wait_loaded()
        user.wait_loaded()
        steps = stage.steps(NODE)[len(before) :]
        assert sorted(steps) == [("load", f"default/{name}") for name in ("core", "slip", "user")]
        assert '"msg": "module adopted", "ref": "default/core"' in stage.daemon_log(NODE)
        assert modprobes(node) == []
        assert unended(node) == "kmm_daemon_unended_processes 0.0"
    stage.delete("user")


def require_told(stage: Stage, pid: str) -> None:
    """Require that process and Module are named, while the init runs."""
    assert f"process {pid} (modprobe {CORE}) has not ended" in told(stage, "core")
    assert unended(stage.sandbox.nodes[NODE]) == "kmm_daemon_unended_processes 1.0"
    assert stage.initializes(NODE, CORE)


def require_next_daemon_knows(stage: Stage, pid: str) -> None:
    """Restart the daemon: it has to find the process, and to start none."""
    log, node = stage.daemon_log(NODE), stage.sandbox.nodes[NODE]
    node.restart_daemon()
    noticed = f'"msg": "process has not ended", "ref": "default/core", "pid": {pid}'
    stage.until(lambda: noticed in stage.daemon_log(NODE)[len(log) :], "the next daemon knows it")
    require_told(stage, pid)
    assert modprobes(node) == [pid]
