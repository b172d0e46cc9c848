"""A daemon that is told to end does so at once, whatever it is at, and unloads nothing."""

from kmm_sandbox import kmodimage
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
INIT_MS = 15_000
"""Longer than a daemon that is told to end is waited for before it is killed."""


def test_daemon_told_to_end_in_a_load_ends_before_it_and_takes_it_over_later(stage: Stage) -> None:
    node, before = stage.sandbox.nodes[NODE], stage.steps(NODE)
    image = push_own(stage.sandbox, "core", CORE)
    outcome = stage.apply("core", image, CORE, parameters=[f"delay_ms={INIT_MS}"])
    stage.until(lambda: stage.initializes(NODE, CORE), f"init of {CORE} on {NODE}")
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
