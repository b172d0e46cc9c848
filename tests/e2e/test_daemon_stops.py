"""A daemon that is told to end does so at once, whatever it is at, and unloads nothing."""

import yaml

from kmm_sandbox import kmodimage, programs, samples
from kmm_sandbox.node import Node
from support import history
from support.stage import (
    Stage,
    own_module,
    pulls,
    push_own,
    push_pinned,
    registry_hangs,
    worker_status,
)

CORE = "kmt_core"
NODE = "node1"
LOAD_CORE = ("load", "default/core")
SESSION = '"msg": "session with the control plane"'
INIT_MS = 15_000
"""Longer than a daemon that is told to end is waited for before it is killed."""


def initializes(node: Node) -> bool:
    """Tell whether the kernel is still in the init of our module."""
    return " Loading " in node.loaded_modules().get(CORE, "")


def log_of(stage: Stage) -> str:
    return "".join(path.read_text() for path in stage.sandbox.daemon_logs(NODE))


def test_daemon_told_to_end_in_a_load_ends_before_it_and_takes_it_over_later(stage: Stage) -> None:
    node, before = stage.sandbox.nodes[NODE], stage.steps(NODE)
    image = push_own(stage.sandbox, "core", CORE)
    outcome = stage.apply("core", image, CORE, parameters=[f"delay_ms={INIT_MS}"])
    stage.until(lambda: initializes(node), f"init of {CORE} on {NODE}")
    assert stage.stop_daemon(NODE) == 0
    facts = [line for log in stage.sandbox.daemon_logs(NODE) for line in history.facts(log)]
    ends = [line for line in facts if line["msg"] == "step ended"]
    assert (ends[-1]["ref"], ends[-1]["ok"]) == ("default/core", False)
    node.restart_daemon()
    outcome.wait_loaded()
    assert stage.steps(NODE) == [*before, LOAD_CORE]
    assert stage.parameter(NODE, CORE, "delay_ms") == str(INIT_MS)


def test_daemon_told_to_end_in_a_pull_ends_and_pulls_anew_later(stage: Stage) -> None:
    sandbox, node, before = stage.sandbox, stage.sandbox.nodes[NODE], stage.steps(NODE)
    own = {f"{CORE}.ko": own_module(sandbox.kernel.version, CORE)}
    files = kmodimage.kmod_files(sandbox.kernel, extra=own) | {"salt": b"told to end"}
    image = push_pinned(sandbox, "core", files)
    with registry_hangs(sandbox):
        outcome = stage.apply("core", image, CORE)
        stage.until(lambda: pulls(node), f"{NODE} pulls")
        assert stage.stop_daemon(NODE) == 0
        assert worker_status(node) == {}
        assert CORE not in node.loaded_modules()
    node.restart_daemon()
    outcome.wait_loaded()
    assert stage.steps(NODE) == [*before, LOAD_CORE]
    assert stage.store(NODE, "tmp") == []


def run_daemon_with(node: Node, **settings: object) -> None:
    """Have a node's daemon run anew with settings of its own."""
    usual = programs.daemon_settings(node.directory / "tls")
    programs.write_settings(node.directory / "daemon.yaml", usual | settings)
    node.restart_daemon()


def test_modprobe_past_its_deadline_is_told_disturbs_nobody_and_is_taken_over(
    stage: Stage,
) -> None:
    """A kill cannot end an init: the module may be in the kernel in the end all the same."""
    node, before = stage.sandbox.nodes[NODE], stage.steps(NODE)
    usual = yaml.safe_load((node.directory / "daemon.yaml").read_text())
    run_daemon_with(node, modprobe_seconds=1.0, modprobe_grace_seconds=1.0)
    try:
        image = push_own(stage.sandbox, "core", CORE)
        core = stage.apply("core", image, CORE, parameters=[f"delay_ms={2 * INIT_MS}"])
        stage.until(
            lambda: stage.report(NODE, "core").get("error", {}).get("reason") == "TimedOut",
            f"{NODE} says TimedOut",
        )
        assert initializes(node)
        sessions = log_of(stage).count(SESSION)
        slip = stage.apply("slip", samples.push(stage.sandbox, "slip", ("slip",)), "slip")
        slip.wait_loaded()
        core.wait_loaded()
        assert log_of(stage).count(SESSION) == sessions
        assert sorted(stage.steps(NODE)[len(before) :]) == [LOAD_CORE, ("load", "default/slip")]
        assert '"msg": "module adopted", "ref": "default/core"' in log_of(stage)
    finally:
        programs.write_settings(node.directory / "daemon.yaml", usual)
        node.restart_daemon()
