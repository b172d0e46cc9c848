"""A daemon that is killed at any moment of a change: nothing is lost, nothing done twice."""

import os
import random

from kmm_sandbox.node import Node
from support.stage import Stage, push_own

ROUNDS = 14
"""On three nodes each."""
SEED = int(os.environ.get("KMM_CRASH_SEED", "1"))
LATEST_SECONDS = 0.8
"""After a change by which a round's kill comes; most changes take half of it."""
WAITING = "/run/kill-waits"
PARAMETER = "/sys/module/kmt_core/parameters/exit_delay_ms"


def kill_daemon_after(node: Node, seconds: float) -> None:
    """Have a node's daemon killed in a moment; return at once."""
    kill = f"rm {WAITING}; sleep {seconds:.3f}; kill -9 $(cat /run/kmm/daemon.lock)"
    # What is still in the command's own process group when it ends, ends with it.
    leave = f"setsid sh -c '{kill}' & while [ -e {WAITING} ]; do sleep 0.01; done"
    node.execute("sh", "-c", f"touch {WAITING}; {leave}").check()


def test_daemon_killed_at_any_moment_ends_with_what_is_desired(stage: Stage) -> None:
    chance = random.Random(SEED)  # noqa: S311 a seed, no secret
    nodes = stage.sandbox.nodes
    image = push_own(stage.sandbox, "core", "kmt_core")
    core = stage.apply("core", image, "kmt_core", parameters=["exit_delay_ms=0"])
    core.wait_loaded()
    starts = {name: stage.daemon_starts(name) for name in nodes}
    for delay in range(1, ROUNDS + 1):
        for node in nodes.values():
            kill_daemon_after(node, chance.uniform(0.0, LATEST_SECONDS))
        stage.apply("core", image, "kmt_core", parameters=[f"exit_delay_ms={delay}"])
        for name, node in nodes.items():
            stage.until(
                lambda name=name, due=starts[name] + delay: (  # type: ignore[misc]
                    stage.daemon_starts(name) >= due
                ),
                f"seed {SEED}: daemon of {name} back",
            )
            stage.until(
                lambda node=node, wanted=str(delay): (  # type: ignore[misc]
                    node.execute("cat", PARAMETER).stdout.strip() == wanted
                ),
                f"seed {SEED}: exit_delay_ms={delay} on {name}",
            )
        core.wait_loaded()
