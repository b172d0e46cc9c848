"""The sandbox with simulated nodes, run by a user without rights."""

import json
import signal
from collections.abc import Iterator

import pytest

from kmm_sandbox.processes import wait_until
from support.nobody import Nobody, nobody
from support.sandboxrun import SECONDS, Run

UP = "The cluster is up."
NOTICE = "SIMULATED NODES: no kernel is touched"
CHECK_SECONDS = 800.0
STEPS = [
    *("load", "parameter", "shared dependency", "reboot", "control plane restart"),
    *("unload one", "unload"),
]


@pytest.fixture(scope="module")
def user() -> Iterator[Nobody]:
    with nobody() as made:
        yield made


def wait_for_no_process(run: Run) -> None:
    wait_until(lambda: run.pids() == [], seconds=SECONDS, what="end of all processes")


@pytest.mark.timeout(CHECK_SECONDS + SECONDS)
def test_check_of_a_user_without_rights_goes_through_and_says_what_was_simulated(
    user: Nobody,
) -> None:
    with user.runs("check", "--count", "2") as run:
        assert run.ended(seconds=CHECK_SECONDS) == 0, run.said()
        wait_for_no_process(run)
    lines = run.said().splitlines()
    verdict = json.loads(lines[-1])
    assert (verdict["ok"], verdict["nodes"]) == (True, "simulated")
    assert [step["step"] for step in verdict["steps"]] == STEPS
    notices = [number for number, line in enumerate(lines) if NOTICE in line]
    started = next(number for number, line in enumerate(lines) if line.endswith("registry ..."))
    assert notices[0] < started
    assert notices[-1] > len(lines) - 5
    assert "why: nodes need root" in lines[notices[0] + 1]
    assert run.directories() == []


@pytest.mark.timeout(CHECK_SECONDS)
def test_nothing_is_left_of_a_run_that_was_killed_once_another_one_has_ended(
    user: Nobody,
) -> None:
    with user.runs("up", "--nodes", "simulated", "--count", "1") as run:
        run.wait_for(UP)
        assert len(run.pids()) > len(("etcd", "kube-apiserver", "kube-controller-manager"))
        run.popen.kill()
        run.ended()
        wait_for_no_process(run)
    with user.runs("up", "--nodes", "simulated", "--count", "1") as run:
        run.wait_for(UP)
        assert NOTICE in run.said().partition(UP)[2]
        run.popen.send_signal(signal.SIGINT)
        assert run.ended() == 0, run.said()
        wait_for_no_process(run)
    assert run.directories() == []
